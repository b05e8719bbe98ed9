"""A toolkit with the functions and targets of CANN's, none of which builds anything."""

from __future__ import annotations

from pathlib import Path

__all__ = ["executable", "lay_out"]

# As the package, the build copies the installer that the variable INSTALLER names.
_CMAKE = """
foreach(name npu_op_package npu_op_package_add npu_op_code_gen npu_op_library npu_op_kernel_sources
             npu_op_kernel_library)
    function(${name})
    endfunction()
endforeach()
set(ASCEND_AUTOGEN_PATH "${CMAKE_BINARY_DIR}/autogen")
add_custom_target(binary)
add_custom_target(package COMMAND ${CMAKE_COMMAND} -E copy $ENV{INSTALLER} ${CMAKE_BINARY_DIR}/custom_opp_linux.run)
"""
_MODULES = Path("compiler/tikcpp/ascendc_kernel_cmake")


def lay_out(folder: Path) -> Path:
    """Writes the toolkit into a new folder for ASCEND_HOME_PATH; returns the folder."""
    (folder / _MODULES).mkdir(parents=True)
    (folder / _MODULES / "asc-config.cmake").write_text(_CMAKE)
    return folder


def executable(path: Path, text: str) -> None:
    """Writes an executable program."""
    path.write_text(text)
    path.chmod(0o755)
