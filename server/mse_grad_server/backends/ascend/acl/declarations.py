"""C declarations of the ACL and aclnn functions that the backend calls.

Sources: acl/acl.h, acl/acl_rt.h (libacl_rt.so) and aclnn/acl_meta.h (libnnopbase.so) of the toolkit.
"""

from __future__ import annotations

__all__ = ["ASCENDCL_PROTOTYPES", "NNOPBASE_PROTOTYPES", "OLDER_NAMES", "OPTIONAL_PROTOTYPES"]

ASCENDCL_PROTOTYPES = """
int aclInit(const char *configPath)
int aclFinalize(void)
const char *aclGetRecentErrMsg(void)
const char *aclrtGetSocName(void)
int aclrtGetDeviceCount(uint32_t *count)
int aclrtSetDevice(int32_t deviceId)
int aclrtResetDevice(int32_t deviceId)
int aclrtCreateContext(void **context, int32_t deviceId)
int aclrtDestroyContext(void *context)
int aclrtCreateStream(void **stream)
int aclrtSetStreamFailureMode(void *stream, uint64_t mode)
int aclrtDestroyStreamForce(void *stream)
int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t timeout)
int aclrtCreateEventExWithFlag(void **event, uint32_t flag)
int aclrtRecordEvent(void *event, void *stream)
int aclrtStreamWaitEvent(void *stream, void *event)
int aclrtQueryEventStatus(void *event, int *status)
int aclrtSynchronizeEventWithTimeout(void *event, int32_t timeout)
int aclrtEventElapsedTime(float *ms, void *startEvent, void *endEvent)
int aclrtDestroyEvent(void *event)
int aclrtMalloc(void **devPtr, size_t size, int policy)
int aclrtFree(void *devPtr)
int aclrtMallocHost(void **hostPtr, size_t size)
int aclrtFreeHost(void *hostPtr)
int aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count, int kind, void *stream)
int aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count)
int aclrtGetMemInfo(int attr, size_t *free, size_t *total)
"""

OPTIONAL_PROTOTYPES = """
int aclrtGetDeviceSatMode(int *mode)
"""
"""Functions of libacl_rt.so that older toolkits lack."""

NNOPBASE_PROTOTYPES = """
void *aclCreateTensor(const int64_t *viewDims, uint64_t viewDimsNum, int dataType, const int64_t *stride, \
int64_t offset, int format, const int64_t *storageDims, uint64_t storageDimsNum, void *tensorData)
int aclDestroyTensor(const void *tensor)
int aclSetAclOpExecutorRepeatable(void *executor)
int aclDestroyAclOpExecutor(void *executor)
int aclSetInputTensorAddr(void *executor, size_t index, void *tensor, void *addr)
int aclSetOutputTensorAddr(void *executor, size_t index, void *tensor, void *addr)
"""

OLDER_NAMES = {
    "aclSetInputTensorAddr": ("AclSetInputTensorAddr",),
    "aclSetOutputTensorAddr": ("AclSetOutputTensorAddr",),
}
"""Names of functions in older toolkits, which spell the setters with a capital A."""
