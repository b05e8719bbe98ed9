// Registration of an operator's definition.
// Models: hicann/metadef inc/external/asc/register/op_def_registry.h, op_def_factory.h.
#ifndef REGISTER_OP_DEF_REGISTRY_H_
#define REGISTER_OP_DEF_REGISTRY_H_

#include <string>
#include <vector>

#include "register/op_def.h"

namespace ops {

class OpDefFactory {
public:
    using Creator = OpDef (*)(const char* type);

    static int Register(const char* type, Creator creator);

    // For the simulator: the types in the order of registration; and the definition of a type, null if it is unknown.
    static std::vector<std::string> Types();
    static const OpDef* Find(const std::string& type);
};

}  // namespace ops

#define OP_ADD(opType)                    \
    static const int g_##opType##_added = \
        ops::OpDefFactory::Register(#opType, [](const char* name) -> ops::OpDef { return opType(name); })

#endif  // REGISTER_OP_DEF_REGISTRY_H_
