// Codes of the operator API.
// Models: hicann/opbase docs and include/nnopbase/opdev/op_errno.h.
#ifndef SIMULATOR_NNOPBASE_STATUS_H_
#define SIMULATOR_NNOPBASE_STATUS_H_

namespace sim {

constexpr int kAclnnNull = 161001;
constexpr int kAclnnInvalid = 161002;
constexpr int kAclnnRuntime = 361001;
constexpr int kAclnnInner = 561000;
constexpr int kAclnnInferShape = 561001;
constexpr int kAclnnTiling = 561002;
constexpr int kAclnnNoKernel = 561003;
constexpr int kAclnnNoKernelPackage = 561112;

}  // namespace sim

#endif  // SIMULATOR_NNOPBASE_STATUS_H_
