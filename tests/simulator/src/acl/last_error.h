// The last error message of each thread, and the log. Thread-safe.
#ifndef SIMULATOR_ACL_LAST_ERROR_H_
#define SIMULATOR_ACL_LAST_ERROR_H_

#include <string>

namespace sim {

// Appends `message` to the text for aclGetRecentErrMsg on this thread, and returns `code`.
int FailWith(int code, const std::string& message);

}  // namespace sim

#endif  // SIMULATOR_ACL_LAST_ERROR_H_
