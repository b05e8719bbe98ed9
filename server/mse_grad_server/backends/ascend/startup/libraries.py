"""Search for the libraries of the toolkit and of the operator, their version and their hash.

Sources: the variables that the toolkit's set_env.sh sets (ASCEND_HOME_PATH, ASCEND_OPP_PATH), those that a custom
package's set_env.bash sets (ASCEND_CUSTOM_OPP_PATH), and the load order of vendors/config.ini.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mse_grad_server.backends.ascend.startup.errors import LibraryNotFound, OpPackageMissing

__all__ = [
    "OLDEST_TOOLKIT",
    "TOOLKIT_FOLDERS",
    "TOOLKIT_VARIABLES",
    "Libraries",
    "find_libraries",
    "find_op_library",
    "find_runtime",
    "find_version",
    "hash_kernels",
    "listed_vendors",
    "op_libraries",
    "prefer_package",
    "toolkit_folders",
    "version_files",
]

OLDEST_TOOLKIT = "8.5"
"""The oldest version of CANN that the server and the operator package work with."""
TOOLKIT_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
"""Variables that name the toolkit's folder, in order of preference."""

# The current names are libacl_rt.so and, below, /usr/local/Ascend/cann. CANN 8.5 deprecated libascendcl.so and
# ascend-toolkit; versions after 2026 may lack them.
_RUNTIMES = ("libacl_rt.so", "libascendcl.so")
_NNOPBASE = "libnnopbase.so"
_OPAPI = "libcust_opapi.so"
# The symbol that marks our operator: neither the toolkit nor another vendor's package has it. It is searched for in the
# file, because a library cannot be unloaded again.
_OPERATOR = b"aclnnMseLossGradPart"
TOOLKIT_FOLDERS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/latest")
_PACKAGES = "ASCEND_CUSTOM_OPP_PATH"
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
        runtime_folder: Folder of the runtime's libraries; "" to find it by the environment.
        op_library: The operator's library; "" to find it by the environment.
        environment: Variables of the process.

    Raises:
        LibraryNotFound: There is no runtime; the message lists the places searched.
        OpPackageMissing: There is no operator package; the message lists the places searched.
    """
    ascendcl, nnopbase = find_runtime(runtime_folder, environment)
    return Libraries(ascendcl, nnopbase, find_op_library(op_library, environment, runtime=ascendcl))


def find_runtime(runtime_folder: str, environment: Mapping[str, str]) -> tuple[Path, Path]:
    """Returns the paths of the ACL runtime and of libnnopbase.so.

    Args:
        runtime_folder: Folder of both; "" to find it by the environment.
        environment: Variables of the process.

    Raises:
        LibraryNotFound: There is no runtime; the message lists the places searched.
    """
    folders = [Path(runtime_folder)] if runtime_folder else list(_runtime_folders(environment))
    runtimes = (folder / name for folder in folders for name in _RUNTIMES)
    runtime = next((path for path in runtimes if path.is_file()), None)
    if runtime is None:
        raise LibraryNotFound(
            f"neither {' nor '.join(_RUNTIMES)} is in any of: {_listed(folders)}. Install the CANN toolkit "
            f"{OLDEST_TOOLKIT} or newer and source its set_env.sh, or name the folder with --ascend-runtime-folder"
        )
    nnopbase = runtime.with_name(_NNOPBASE)
    if not nnopbase.is_file():
        raise LibraryNotFound(
            f"{runtime.parent} has {runtime.name} but no {_NNOPBASE}; the toolkit is incomplete or older than "
            f"{OLDEST_TOOLKIT}: install it again"
        )
    return runtime, nnopbase


def find_op_library(op_library: str, environment: Mapping[str, str], *, runtime: Path) -> Path:
    """Returns the path of the operator's library: the named one, or that of the first package with the operator.

    A host may have packages of other vendors too.

    Args:
        op_library: The operator's library; "" to find it by the environment.
        environment: Variables of the process.
        runtime: The runtime's library; its toolkit may hold the package.

    Raises:
        OpPackageMissing: There is no operator package; the message lists the places searched.
    """
    paths = [Path(op_library)] if op_library else op_libraries(environment, runtime=runtime)
    found = [path for path in paths if path.is_file()]
    if op_library and found:
        return found[0]
    ours = next((path for path in found if _OPERATOR in path.read_bytes()), None)
    if ours is not None:
        return ours
    others = f" (packages of others are in: {_listed(found)})" if found else ""
    raise OpPackageMissing(
        f"the operator package was not found in any of: {_listed(paths)}{others}. Build it (kernel/ and op_host/), run "
        "the custom_opp_*.run that comes out and source its bin/set_env.bash, or name the library with "
        "--ascend-op-library"
    )


def op_libraries(environment: Mapping[str, str], *, runtime: Path) -> list[Path]:
    """Returns the paths at which operator packages have their library, in the toolkit's order of search."""
    return list(dict.fromkeys(_op_libraries(environment, runtime)))


def prefer_package(opapi: Path, environment: MutableMapping[str, str]) -> None:
    """Makes the toolkit search for kernels in the package of the operator's library first.

    The toolkit finds kernels by the environment, whichever library planned the launch. Without this call it may run the
    kernels of another package or its own, or find none. It reads the environment of the process once, so this call must
    precede the loading of its libraries.
    """
    package = _package(opapi)
    if package is not None:
        others = [path for path in environment.get(_PACKAGES, "").split(":") if path and Path(path) != package]
        environment[_PACKAGES] = ":".join([str(package), *others])


def find_version(runtime: Path) -> str:
    """Returns the version of the toolkit that the runtime's library belongs to, e.g. "8.5.0", or "unknown"."""
    for file in version_files(runtime):
        found = _VERSION.search(file.read_text(errors="replace"))
        if found is not None:
            return found[2]
    return "unknown"


def version_files(runtime: Path) -> Iterator[Path]:
    """Yields the existing files with the version of the toolkit that the runtime's library belongs to."""
    for toolkit in toolkit_folders(runtime.resolve()):
        for name in _VERSION_FILES:
            if (toolkit / name).is_file():
                yield toolkit / name


def hash_kernels(libraries: Libraries) -> str:
    """Returns the SHA-256 of the operator's compiled kernels and of its library, in hexadecimal.

    A package has its kernels in files under op_impl; a library outside a package contains them itself.
    """
    opapi = libraries.opapi.resolve()
    package = _package(opapi)
    kernels = sorted((package / "op_impl").rglob("*.o")) if package is not None else []
    total = hashlib.sha256()
    for path in (opapi, *kernels):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def listed_vendors(folder: Path) -> list[str]:
    """Returns the vendors that config.ini names in a folder of packages."""
    config = folder / "config.ini"
    if not config.is_file():
        return []
    found = re.search(r"^\s*load_priority\s*=\s*(.+)$", config.read_text(errors="replace"), re.MULTILINE)
    return [name.strip() for name in found[1].split(",")] if found else []


def toolkit_folders(runtime: Path) -> tuple[Path, ...]:
    """Returns two candidates for the toolkit's folder, from the path of the runtime's library; none outside a lib64.

    A toolkit has <toolkit>/lib64/libacl_rt.so, or <toolkit>/<architecture>-linux/lib64/libacl_rt.so.
    """
    return tuple(runtime.parents[1:3]) if runtime.parent.name == "lib64" else ()


def _package(opapi: Path) -> Path | None:
    """Returns the package that the operator's library is part of, or None if it is part of none."""
    opapi = opapi.absolute()
    return opapi.parents[2] if opapi.parts[-3:-1] == ("op_api", "lib") else None


def _runtime_folders(environment: Mapping[str, str]) -> Iterator[Path]:
    for variable in TOOLKIT_VARIABLES:
        if environment.get(variable):
            yield Path(environment[variable]) / "lib64"
    for folder in environment.get("LD_LIBRARY_PATH", "").split(":"):
        if folder:
            yield Path(folder)
    for folder in TOOLKIT_FOLDERS:
        yield Path(folder) / "lib64"


def _op_libraries(environment: Mapping[str, str], runtime: Path) -> Iterator[Path]:
    library = Path("op_api", "lib", _OPAPI)
    # The toolkit prefers these packages to those under its own folder.
    for package in environment.get(_PACKAGES, "").split(":"):
        if package:
            yield Path(package) / library
    named = environment.get("ASCEND_OPP_PATH")
    toolkits = [Path(environment[name]) for name in TOOLKIT_VARIABLES if environment.get(name)]
    for opp in [Path(named)] if named else [folder / "opp" for folder in (*toolkits, *toolkit_folders(runtime))]:
        vendors = opp / "vendors"
        for vendor in _vendors(vendors):
            yield vendors / vendor / library


def _vendors(folder: Path) -> Sequence[str]:
    """Returns the vendors in the toolkit's order: first those that config.ini names, then the others."""
    listed = listed_vendors(folder)
    others = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [*listed, *(name for name in others if name not in listed)]


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in dict.fromkeys(paths)) or "no place: ASCEND_OPP_PATH is not set"
