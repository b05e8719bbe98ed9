// Where a refusal goes: into the toolkit's log and, where it has one, into the message that aclGetRecentErrMsg returns.
#ifndef OP_HOST_MSE_LOSS_GRAD_REPORT_H_
#define OP_HOST_MSE_LOSS_GRAD_REPORT_H_

#include <string>

// In CANN 8 a file of its own, later a link to dlog_pub.h: the one name that both have.
#include "toolchain/slog.h"

#if defined(__has_include)
#if __has_include("base/err_msg.h")
#include "base/err_msg.h"
#endif
#endif

namespace mse_loss_grad {

// Reports why node `node` (null: unknown) was refused.
inline void Report(const char* node, const std::string& reason) {
    const char* name = node == nullptr ? "MseLossGrad" : node;
    dlog_error(OP, "%s: %s", name, reason.c_str());
#ifdef REPORT_USER_DEFINED_ERR_MSG
    REPORT_USER_DEFINED_ERR_MSG("EU0001", "%s: %s", name, reason.c_str());
#endif
}

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_REPORT_H_
