#!/bin/bash
# Builds the operator package, and runs the example, in the form of Huawei's operator projects:
#   bash build.sh [--pkg] [--soc=ascend910b,ascend310b] [--ops=mse_loss_grad_part] [--vendor_name=mse_grad] [-j4]
#   ./build_out/custom_opp_*.run [--install-path=<folder>]
#   bash build.sh --run_example [--vendor_name=mse_grad]
# --soc: products that kernels are compiled for; all three unless given. --ops: operators of the package; without
# mse_loss_grad it has no operator whose name the toolkit uses too. Needs the toolkit's set_env.sh to be sourced.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pkg=no run_example=no soc="" ops=mse_loss_grad,mse_loss_grad_part vendor=mse_grad jobs=$(nproc)

fail() {
    echo "build.sh: $1" >&2
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

while (($# > 0)); do
    case $1 in
        --pkg) pkg=yes ;;
        --soc=*) soc=${1#*=} ;;
        --ops=*) ops=${1#*=} ;;
        --vendor_name=*) vendor=${1#*=} ;;
        --run_example) run_example=yes ;;
        # Huawei's projects take these words after --run_example; here each has one possible value.
        mse_loss_grad | eager | cust) [[ $run_example == yes ]] || fail "$1 stands without --run_example" ;;
        -j) ;;
        -j*) jobs=${1#-j} ;;
        *) fail "$1 is not known" ;;
    esac
    shift
done
for operator in ${ops//,/ }; do
    [[ $operator =~ ^mse_loss_grad(_part)?$ ]] || fail "--ops names $operator; there are mse_loss_grad and mse_loss_grad_part"
done
[[ ",$ops," == *,mse_loss_grad,* ]] && published=ON || published=OFF

# Build, unless only the example is requested.
if [[ $pkg == yes || $run_example == no ]]; then
    products=()
    [[ -n $soc ]] && products=("-DASCEND_COMPUTE_UNIT=${soc//,/;}")
    cmake -S "$here" -B "$here/build_out" "-Dvendor_name=$vendor" "-DMSE_LOSS_GRAD_PUBLISHED_API=$published" \
        ${products[@]+"${products[@]}"}
    cmake --build "$here/build_out" --target binary package --parallel "$jobs"
fi

if [[ $run_example == yes ]]; then
    api=${ASCEND_OPP_PATH:-}/vendors/$vendor/op_api
    IFS=: read -ra packages <<<"${ASCEND_CUSTOM_OPP_PATH:-}"
    for package in ${packages[@]+"${packages[@]}"}; do
        if [[ -f $package/op_api/include/aclnn_mse_loss_grad.h ]]; then
            api=$package/op_api
            break
        fi
    done
    cmake -S "$here/examples" -B "$here/build_out/example" "-DMSE_LOSS_GRAD_API=$api"
    cmake --build "$here/build_out/example" --parallel "$jobs"
    "$here/build_out/example/mse_loss_grad_example"
fi
