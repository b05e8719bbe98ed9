"""Reports of a refusal to the log and the last error of the toolkit, if the program has loaded its libraries."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.npu.simulator import ROOT
from support.tools import require_program

REASON = "MseLossGrad: predict has rank 9"
PROGRAM = """
#include "op_host/mse_loss_grad_report.h"

int main() { mse_loss_grad::Report(nullptr, "predict has rank 9"); }
"""
# Definitions of the toolkit's libraries.
PRINT = """
#include <cstdarg>
#include <cstdio>
#define PRINT_ARGUMENTS(format) \\
    va_list arguments;          \\
    va_start(arguments, format); \\
    std::vprintf(format, arguments); \\
    va_end(arguments)
"""
LOG = f"""{PRINT}
extern "C" void DlogRecord(int module, int, const char* format, ...) {{
    std::printf("module %d: ", module);
    PRINT_ARGUMENTS(format);
    std::puts("");
}}
"""
ERROR_MANAGER = f"""{PRINT}
namespace error_message {{
int ReportUserDefinedErrMsg(const char* code, const char* format, ...) {{
    std::printf("%s: ", code);
    PRINT_ARGUMENTS(format);
    std::puts("");
    return 0;
}}
}}
"""
# A header of the log, instead of the simulator's.
LOG_HEADER = """
#include <cstdio>
#define OP 63
inline void DlogRecord() {}
#define dlog_error(module, ...) std::printf(__VA_ARGS__)
"""
# Paths of the header in toolkits, relative to the folder that is searched.
LOG_HEADERS = ("dlog_pub.h", "base/dlog_pub.h", "../pkg_inc/base/dlog_pub.h", "toolchain/slog.h")


def run(folder: Path, *sources: str, include: Path) -> str:
    """Compiles the sources into a program; returns what it prints."""
    files = []
    for number, source in enumerate(sources):
        files.append(folder / f"{number}.cpp")
        files[-1].write_text(source)
    program = folder / "program"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [require_program("c++"), "-std=c++11", *warnings, f"-I{include}", f"-I{ROOT}", *files, "-o", program],
        check=True,
    )
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("libraries", "told"),
    [
        ((), []),
        ((LOG,), ["module 63"]),
        ((ERROR_MANAGER,), ["EU0001"]),
        ((LOG, ERROR_MANAGER), ["module 63", "EU0001"]),
    ],
    ids=["nothing loaded", "log", "error manager", "both"],
)
def test_a_refusal_is_reported_to_each_loaded_library(
    tmp_path: Path, libraries: tuple[str, ...], told: list[str]
) -> None:
    lines = run(tmp_path, PROGRAM, *libraries, include=ROOT / "tests" / "simulator" / "include").splitlines()
    assert [line.partition(": ")[0] for line in lines] == told
    assert all(line.endswith(REASON) for line in lines)


@pytest.mark.parametrize("header", LOG_HEADERS)
def test_the_header_of_the_log_is_found_in_each_toolkits_folder(tmp_path: Path, header: str) -> None:
    include = tmp_path / "include"
    include.mkdir()
    (include / header).parent.mkdir(parents=True, exist_ok=True)
    (include / header).write_text(LOG_HEADER)
    assert run(tmp_path, PROGRAM, include=include) == REASON
