// The text of what went wrong last on a thread, and the log. Thread-safe.
#ifndef SIMULATOR_ACL_LAST_ERROR_H_
#define SIMULATOR_ACL_LAST_ERROR_H_

#include <string>

namespace sim {

// Keeps `message` for aclGetRecentErrMsg on this thread, after those before it, and returns `code`.
int FailWith(int code, const std::string& message);

}  // namespace sim

#endif  // SIMULATOR_ACL_LAST_ERROR_H_
