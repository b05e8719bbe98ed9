// Checks the headers that callers see against the published C interface: it compiles only if all of it is equal.
#include <cstdint>
#include <type_traits>

#include "acl/acl.h"
#include "aclnn/acl_meta.h"
#include "aclnn/aclnn_base.h"
#include "aclnn_mse_loss_grad.h"
#include "aclnn_mse_loss_grad_part.h"

namespace {

template <typename A, typename B>
constexpr bool kSame = std::is_same_v<A, B>;

// The operator API, as the toolkit generates it.
static_assert(
    kSame<decltype(aclnnMseLossGradGetWorkspaceSize),
          int32_t(const aclTensor* predict, const aclTensor* label, const aclTensor* dout, char* reductionOptional,
                  const aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor)>);
static_assert(kSame<decltype(aclnnMseLossGrad),
                    int32_t(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, void* stream)>);
static_assert(
    kSame<decltype(aclnnMseLossGradPartGetWorkspaceSize),
          int32_t(const aclTensor* predict, const aclTensor* label, const aclTensor* dout, char* reductionOptional,
                  int64_t numel, const aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor)>);
static_assert(kSame<decltype(aclnnMseLossGradPart),
                    int32_t(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, void* stream)>);

// Handles and codes.
static_assert(kSame<aclError, int> && kSame<aclnnStatus, int32_t>);
static_assert(kSame<aclrtStream, void*> && kSame<aclrtContext, void*> && kSame<aclrtEvent, void*>);
static_assert(sizeof(aclDataType) == 4 && sizeof(aclFormat) == 4 && sizeof(aclrtMemMallocPolicy) == 4 &&
              sizeof(aclrtMemcpyKind) == 4 && sizeof(aclrtMemAttr) == 4 && sizeof(aclrtHostRegisterType) == 4 &&
              sizeof(aclrtStreamStatus) == 4 && sizeof(aclrtEventRecordedStatus) == 4);
static_assert(ACL_MEM_MALLOC_HUGE_FIRST == 0 && ACL_MEM_MALLOC_HUGE_ONLY == 1 && ACL_MEM_MALLOC_NORMAL_ONLY == 2);
static_assert(ACL_MEMCPY_HOST_TO_HOST == 0 && ACL_MEMCPY_HOST_TO_DEVICE == 1 && ACL_MEMCPY_DEVICE_TO_HOST == 2 &&
              ACL_MEMCPY_DEVICE_TO_DEVICE == 3);
static_assert(ACL_FLOAT == 0 && ACL_FLOAT16 == 1 && ACL_DOUBLE == 11 && ACL_BF16 == 27 && ACL_FORMAT_ND == 2);
static_assert(ACL_DDR_MEM == 0 && ACL_HBM_MEM == 1 && ACL_HOST_REGISTER_MAPPED == 0);
static_assert(ACL_CONTINUE_ON_FAILURE == 0 && ACL_STOP_ON_FAILURE == 1);
static_assert(ACL_STREAM_STATUS_COMPLETE == 0 && ACL_STREAM_STATUS_NOT_READY == 1);
static_assert(ACL_EVENT_RECORDED_STATUS_NOT_READY == 0 && ACL_EVENT_RECORDED_STATUS_COMPLETE == 1);

// Start, devices, contexts.
static_assert(kSame<decltype(aclInit), int(const char*)> && kSame<decltype(aclFinalize), int()>);
static_assert(kSame<decltype(aclGetRecentErrMsg), const char*()> && kSame<decltype(aclrtGetSocName), const char*()>);
static_assert(kSame<decltype(aclrtGetDeviceCount), int(uint32_t*)>);
static_assert(kSame<decltype(aclrtSetDevice), int(int32_t)> && kSame<decltype(aclrtResetDevice), int(int32_t)>);
static_assert(kSame<decltype(aclrtDeviceTaskAbort), int(int32_t, uint32_t)>);
static_assert(kSame<decltype(aclrtCreateContext), int(void**, int32_t)>);
static_assert(kSame<decltype(aclrtSetCurrentContext), int(void*)> && kSame<decltype(aclrtDestroyContext), int(void*)>);

// Streams.
static_assert(kSame<decltype(aclrtCreateStream), int(void**)>);
static_assert(kSame<decltype(aclrtCreateStreamWithConfig), int(void**, uint32_t, uint32_t)>);
static_assert(kSame<decltype(aclrtDestroyStream), int(void*)> && kSame<decltype(aclrtDestroyStreamForce), int(void*)>);
static_assert(kSame<decltype(aclrtSetStreamFailureMode), int(void*, uint64_t)>);
static_assert(kSame<decltype(aclrtSynchronizeStream), int(void*)> && kSame<decltype(aclrtStreamAbort), int(void*)>);
static_assert(kSame<decltype(aclrtSynchronizeStreamWithTimeout), int(void*, int32_t)>);
static_assert(kSame<decltype(aclrtStreamQuery), int(void*, aclrtStreamStatus*)>);

// Events.
static_assert(kSame<decltype(aclrtCreateEventExWithFlag), int(void**, uint32_t)>);
static_assert(kSame<decltype(aclrtRecordEvent), int(void* event, void* stream)>);
static_assert(kSame<decltype(aclrtStreamWaitEvent), int(void* stream, void* event)>);
static_assert(kSame<decltype(aclrtSynchronizeEventWithTimeout), int(void*, int32_t)>);
static_assert(kSame<decltype(aclrtQueryEventStatus), int(void*, aclrtEventRecordedStatus*)>);
static_assert(kSame<decltype(aclrtEventElapsedTime), int(float*, void*, void*)>);
static_assert(kSame<decltype(aclrtGetDeviceSatMode), int(aclrtFloatOverflowMode*)>);
static_assert(sizeof(aclrtFloatOverflowMode) == 4 && ACL_RT_OVERFLOW_MODE_SATURATION == 0);
static_assert(ACL_RT_OVERFLOW_MODE_INFNAN == 1);
static_assert(kSame<decltype(aclrtDestroyEvent), int(void*)>);

// Memory.
static_assert(kSame<decltype(aclrtMalloc), int(void**, size_t, aclrtMemMallocPolicy)>);
static_assert(kSame<decltype(aclrtFree), int(void*)> && kSame<decltype(aclrtFreeHost), int(void*)>);
static_assert(kSame<decltype(aclrtMallocHost), int(void**, size_t)>);
static_assert(kSame<decltype(aclrtHostRegister), int(void*, uint64_t, aclrtHostRegisterType, void**)>);
static_assert(kSame<decltype(aclrtHostUnregister), int(void*)>);
static_assert(kSame<decltype(aclrtMemcpy), int(void*, size_t, const void*, size_t, aclrtMemcpyKind)>);
static_assert(kSame<decltype(aclrtMemcpyAsync), int(void*, size_t, const void*, size_t, aclrtMemcpyKind, void*)>);
static_assert(kSame<decltype(aclrtMemset), int(void*, size_t, int32_t, size_t)>);
static_assert(kSame<decltype(aclrtGetMemInfo), int(aclrtMemAttr, size_t*, size_t*)>);

// Tensors and executors.
static_assert(kSame<decltype(aclCreateTensor), aclTensor*(const int64_t*, uint64_t, aclDataType, const int64_t*,
                                                          int64_t, aclFormat, const int64_t*, uint64_t, void*)>);
static_assert(kSame<decltype(aclDestroyTensor), int32_t(const aclTensor*)>);
static_assert(kSame<decltype(aclnnInit), int32_t(const char*)> && kSame<decltype(aclnnFinalize), int32_t()>);
static_assert(kSame<decltype(aclSetAclOpExecutorRepeatable), int32_t(aclOpExecutor*)>);
static_assert(kSame<decltype(aclDestroyAclOpExecutor), int32_t(aclOpExecutor*)>);
using SetAddress = int32_t(aclOpExecutor*, size_t, aclTensor*, void*);
static_assert(kSame<decltype(aclSetInputTensorAddr), SetAddress> && kSame<decltype(AclSetInputTensorAddr), SetAddress>);
static_assert(kSame<decltype(aclSetOutputTensorAddr), SetAddress> &&
              kSame<decltype(AclSetOutputTensorAddr), SetAddress>);

}  // namespace
