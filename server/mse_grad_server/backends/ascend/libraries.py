"""Where the libraries of the toolkit and of the operator lie, and what they are.

Source: the environment that the toolkit's set_env.sh makes (ASCEND_HOME_PATH, ASCEND_OPP_PATH), that of a custom
package's set_env.bash (ASCEND_CUSTOM_OPP_PATH), and the load order of vendors/config.ini.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mse_grad_server.backends.ascend.start_errors import LibraryNotFound, OpPackageMissing

__all__ = ["Libraries", "find_libraries", "find_version", "hash_kernels"]

_RUNTIME = "libascendcl.so"
_NNOPBASE = "libnnopbase.so"
_OPAPI = "libcust_opapi.so"
# No package of another vendor has it, nor the toolkit. Looked for in the file: a library that is loaded stays.
_OPERATOR = b"aclnnMseLossGradPart"
_TOOLKIT_FOLDERS = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/latest", "/usr/local/Ascend/cann")
_VERSION_FILES = ("version.cfg", "version.info", "opp/version.info", "runtime/version.info", "compiler/version.info")
_VERSION = re.compile(r"^\s*(?:Version|version|runtime_running_version)\s*=\s*\[?([^\s\]:]+:)?([^\s\]]+)", re.MULTILINE)


@dataclass(frozen=True)
class Libraries:
    """The three libraries.

    Attributes:
        ascendcl: The ACL runtime.
        nnopbase: Tensors and executors.
        opapi: The operator of this project.
    """

    ascendcl: Path
    nnopbase: Path
    opapi: Path


def find_libraries(*, runtime_folder: str, op_library: str, environment: Mapping[str, str]) -> Libraries:
    """Returns the paths of the libraries.

    Args:
        runtime_folder: Folder of the runtime's libraries; "" for what the environment says.
        op_library: The operator's library; "" for what the environment says.
        environment: Variables of the process.

    Raises:
        LibraryNotFound: There is no runtime; the message says where it was looked for.
        OpPackageMissing: There is no operator package; likewise.
    """
    folders = [Path(runtime_folder)] if runtime_folder else list(_runtime_folders(environment))
    folder = next((folder for folder in folders if (folder / _RUNTIME).is_file()), None)
    if folder is None:
        raise LibraryNotFound(
            f"{_RUNTIME} is in none of: {_listed(folders)}. Install the CANN toolkit and source its set_env.sh, or "
            "name the folder with --ascend-runtime-folder"
        )
    nnopbase = folder / _NNOPBASE
    if not nnopbase.is_file():
        raise LibraryNotFound(
            f"{folder} has {_RUNTIME} but no {_NNOPBASE}; the toolkit is not whole or older than 8.0: install it anew"
        )
    return Libraries(folder / _RUNTIME, nnopbase, _find_op_library(op_library, environment))


def find_version(libraries: Libraries) -> str:
    """Returns the version of the toolkit that the runtime belongs to, e.g. "8.5.0", or "unknown"."""
    # .../<toolkit>/lib64/libascendcl.so, or .../<toolkit>/<architecture>-linux/lib64/libascendcl.so
    for toolkit in libraries.ascendcl.resolve().parents[1:3]:
        for name in _VERSION_FILES:
            file = toolkit / name
            found = _VERSION.search(file.read_text(errors="replace")) if file.is_file() else None
            if found is not None:
                return found[2]
    return "unknown"


def hash_kernels(libraries: Libraries) -> str:
    """Returns the SHA-256 of the operator's compiled kernels and of its library, in hexadecimal.

    A package keeps its kernels beside the library, under op_impl; elsewhere they are in the library itself.
    """
    opapi = libraries.opapi.resolve()
    package = opapi.parents[2] if opapi.parts[-3:-1] == ("op_api", "lib") else None
    kernels = sorted((package / "op_impl").rglob("*.o")) if package is not None else []
    total = hashlib.sha256()
    for path in (opapi, *kernels):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _find_op_library(named: str, environment: Mapping[str, str]) -> Path:
    """Returns the one that is named, or the first package that has the operator: hosts have packages of others too."""
    paths = [Path(named)] if named else list(dict.fromkeys(_op_libraries(environment)))
    found = [path for path in paths if path.is_file()]
    if named and found:
        return found[0]
    ours = next((path for path in found if _OPERATOR in path.read_bytes()), None)
    if ours is not None:
        return ours
    others = f" (packages of others are in: {_listed(found)})" if found else ""
    raise OpPackageMissing(
        f"the operator package was found in none of: {_listed(paths)}{others}. Build it (kernel/ and op_host/), run "
        "the custom_opp_*.run that comes out and source its bin/set_env.bash, or name the library with "
        "--ascend-op-library"
    )


def _runtime_folders(environment: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        if environment.get(variable):
            yield Path(environment[variable]) / "lib64"
    for folder in environment.get("LD_LIBRARY_PATH", "").split(":"):
        if folder:
            yield Path(folder)
    for folder in _TOOLKIT_FOLDERS:
        yield Path(folder) / "lib64"


def _op_libraries(environment: Mapping[str, str]) -> Iterator[Path]:
    library = Path("op_api", "lib", _OPAPI)
    # The toolkit prefers these to what is installed under its own folder.
    for package in environment.get("ASCEND_CUSTOM_OPP_PATH", "").split(":"):
        if package:
            yield Path(package) / library
    opp = environment.get("ASCEND_OPP_PATH")
    if not opp and environment.get("ASCEND_HOME_PATH"):
        opp = str(Path(environment["ASCEND_HOME_PATH"]) / "opp")
    if opp:
        vendors = Path(opp) / "vendors"
        for vendor in _vendors(vendors):
            yield vendors / vendor / library


def _vendors(folder: Path) -> Sequence[str]:
    """Returns the vendors in the order in which the toolkit loads them: first those of config.ini, then the others."""
    config = folder / "config.ini"
    listed: list[str] = []
    if config.is_file():
        found = re.search(r"^\s*load_priority\s*=\s*(.+)$", config.read_text(errors="replace"), re.MULTILINE)
        listed = [name.strip() for name in found[1].split(",")] if found else []
    others = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [*listed, *(name for name in others if name not in listed)]


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in dict.fromkeys(paths)) or "no place: ASCEND_OPP_PATH is not set"
