// Text for aclGetRecentErrMsg.
// Models: hicann/runtime include/dfx/base/err_msg.h.
#ifndef BASE_ERR_MSG_H_
#define BASE_ERR_MSG_H_

#include <cstdint>

namespace error_message {

// Weak: null unless a loaded library has it.
int32_t ReportUserDefinedErrMsg(const char* error_code, const char* format, ...)
    __attribute__((weak, format(printf, 2, 3)));

}  // namespace error_message

#define REPORT_USER_DEFINED_ERR_MSG(error_code, format, ...) \
    (void)error_message::ReportUserDefinedErrMsg((error_code), (format), ##__VA_ARGS__)

#endif  // BASE_ERR_MSG_H_
