#include "last_error.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "acl/acl.h"
#include "base/dlog_pub.h"
#include "base/err_msg.h"

namespace sim {
namespace {

thread_local std::string t_pending;   // messages since the last query
thread_local std::string t_returned;  // result of the last query; lives until the next

std::string FormatList(const char* format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, format, arguments);
    std::string text(static_cast<size_t>(length < 0 ? 0 : length), '\0');
    std::vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    return text;
}

}  // namespace

int FailWith(int code, const std::string& message) {
    t_pending += (t_pending.empty() ? "" : "\n") + message;
    return code;
}

}  // namespace sim

const char* aclGetRecentErrMsg() {
    if (sim::t_pending.empty()) {
        return nullptr;
    }
    sim::t_returned.swap(sim::t_pending);
    sim::t_pending.clear();
    return sim::t_returned.c_str();
}

namespace error_message {

int32_t ReportUserDefinedErrMsg(const char* error_code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    sim::FailWith(0, std::string(error_code) + ": " + sim::FormatList(format, arguments));
    va_end(arguments);
    return 0;
}

}  // namespace error_message

extern "C" void DlogRecord(int moduleId, int level, const char* fmt, ...) {
    const char* print = std::getenv("ASCEND_SLOG_PRINT_TO_STDOUT");
    if (print == nullptr || std::strcmp(print, "1") != 0) {
        return;
    }
    va_list arguments;
    va_start(arguments, fmt);
    std::printf("[%s] module %d: %s\n", level == DLOG_ERROR ? "ERROR" : "INFO", moduleId,
                sim::FormatList(fmt, arguments).c_str());
    va_end(arguments);
}
