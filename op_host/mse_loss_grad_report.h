// Report of a refusal, to the toolkit's log and, if the toolkit has it, to the message of aclGetRecentErrMsg.
#ifndef OP_HOST_MSE_LOSS_GRAD_REPORT_H_
#define OP_HOST_MSE_LOSS_GRAD_REPORT_H_

#include <string>

// The header of the log, dlog_pub.h, is in different folders of different toolkits. Its older name slog.h is deprecated
// since CANN 8.5.
#if __has_include("dlog_pub.h")
#include "dlog_pub.h"
#elif __has_include("base/dlog_pub.h")
#include "base/dlog_pub.h"
#elif __has_include("../pkg_inc/base/dlog_pub.h")
#include "../pkg_inc/base/dlog_pub.h"
#else
#include "toolchain/slog.h"
#endif

#if __has_include("base/err_msg.h")
#include "base/err_msg.h"
#endif

namespace mse_loss_grad {

// Returns whether a loaded library has `function`. The toolkit declares both functions below weak: without their
// libraries they are null. The function is an argument, because compilers warn if code compares the address of a
// function that is not weak with null.
template <typename Function>
bool IsLoaded(Function* function) {
    return function != nullptr;
}

// Reports why node `node` (null: unknown) was refused.
inline void Report(const char* node, const std::string& reason) {
    const char* name = node == nullptr ? "MseLossGrad" : node;
    if (IsLoaded(&DlogRecord)) {
        dlog_error(OP, "%s: %s", name, reason.c_str());
    }
#ifdef REPORT_USER_DEFINED_ERR_MSG
    if (IsLoaded(&error_message::ReportUserDefinedErrMsg)) {
        REPORT_USER_DEFINED_ERR_MSG("EU0001", "%s: %s", name, reason.c_str());
    }
#endif
}

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_REPORT_H_
