"""The libraries that the server loads: the runtime's, and the operator package's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mse_grad_client.doctor.cann import TOOLKIT_VARIABLES, driver_folder, toolkit_folder
from mse_grad_client.doctor.finding import Finding, error, ok, warning
from mse_grad_client.doctor.host import Host
from mse_grad_client.doctor.loading import Loaded, load

__all__ = ["examine_libraries"]

_RUNTIME = {"libascendcl.so": ("aclInit", "aclrtSetDevice"), "libnnopbase.so": ("aclCreateTensor",)}
_OPERATOR = "op_api/lib/libcust_opapi.so"
_OURS = b"aclnnMseLossGradPart"  # no package of another vendor has it; the server passes over those as well
_SYMBOLS = tuple(
    f"aclnn{operator}{phase}" for operator in ("MseLossGrad", "MseLossGradPart") for phase in ("GetWorkspaceSize", "")
)


def examine_libraries(host: Host) -> Iterator[Finding]:
    """Yields what there is to say of the libraries and of the variables that lead to them."""
    yield from _examine_variables(host)
    runtime = _runtime(host)
    packages = [path for path in _packages(host) if path.is_file()]
    package = next((path for path in packages if _OURS in path.read_bytes()), None)
    wanted = [(path, _RUNTIME[path.name]) for path in runtime]
    if package is not None:
        wanted.append((package, _SYMBOLS))
    loaded = load(wanted, environment=host.environment) if wanted else []
    for name in _RUNTIME:
        found = next((index for index, path in enumerate(runtime) if path.name == name), None)
        if found is None:
            yield error(name, "is not in the toolkit, nor in LD_LIBRARY_PATH", "install the CANN toolkit, 8.5 or newer")
        else:
            yield _judge(host, name, runtime[found], loaded[found], "the toolkit is not whole: install it anew")
    if package is None:
        others = f"; packages of others: {', '.join(host.name(path) for path in packages)}" if packages else ""
        yield error(
            "operator package",
            "ours is not among vendors/* of $ASCEND_OPP_PATH or the toolkit's opp, nor in $ASCEND_CUSTOM_OPP_PATH"
            + others,
            "build it (op_host/README.md), run the custom_opp_*.run, source its bin/set_env.bash",
        )
    else:
        advice = "it is older or newer than this server: install the package of the same version"
        yield _judge(host, "operator package", package, loaded[-1], advice)


def _examine_variables(host: Host) -> Iterator[Finding]:
    toolkit = toolkit_folder(host)
    if toolkit is not None and not any(host.environment.get(name) for name in TOOLKIT_VARIABLES):
        scripts = (f"{folder}/set_env.sh" for folder in (toolkit, toolkit.parent))
        script = next((name for name in scripts if host.path(name).is_file()), "its set_env.sh")
        yield warning("environment", "the toolkit's variables are not set", f"source {script}")
    for name in (*TOOLKIT_VARIABLES, "ASCEND_OPP_PATH", "ASCEND_CUSTOM_OPP_PATH"):
        folders = _folders(host, name)
        gone = [folder for folder in folders if not host.path(folder).is_dir()]
        if gone:
            yield error(name, f"names {', '.join(gone)}: not there", "source the set_env.sh of what is installed")
        elif folders:
            yield ok(name, ":".join(folders))


def _runtime(host: Host) -> list[Path]:
    toolkit = toolkit_folder(host)
    folders = [f"{toolkit}/lib64"] if toolkit is not None else []
    folders += _folders(host, "LD_LIBRARY_PATH")
    found = []
    for name in _RUNTIME:
        paths = (host.path(folder) / name for folder in folders)
        found += [path for path in paths if path.is_file()][:1]
    return found


def _packages(host: Host) -> Iterator[Path]:
    for folder in _folders(host, "ASCEND_CUSTOM_OPP_PATH"):
        yield host.path(folder) / _OPERATOR
    toolkit = toolkit_folder(host)
    opp = host.environment.get("ASCEND_OPP_PATH") or (str(PurePosixPath(toolkit, "opp")) if toolkit else "")
    vendors = host.path(opp) / "vendors"
    if not opp or not vendors.is_dir():
        return
    first = host.fields(host.name(vendors / "config.ini")).get("load_priority", "")
    names = [name.strip() for name in first.split(",") if name.strip()]
    names += sorted(path.name for path in vendors.iterdir() if path.is_dir() and path.name not in names)
    for name in names:
        yield vendors / name / _OPERATOR


def _folders(host: Host, variable: str) -> list[str]:
    return [folder for folder in host.environment.get(variable, "").split(":") if folder]


def _judge(host: Host, subject: str, path: Path, loaded: Loaded, advice: str) -> Finding:
    name = host.name(path)
    if loaded.failure:
        folder = driver_folder(host)
        lead = f"add {folder}/lib64/driver and {folder}/lib64/common to LD_LIBRARY_PATH and source set_env.sh"
        return error(subject, f"{name} does not load: {loaded.failure}", lead)
    if loaded.missing:
        return error(subject, f"{name} lacks {', '.join(loaded.missing)}", advice)
    return ok(subject, f"{name} loads")
