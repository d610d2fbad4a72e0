// Which instruction sets this machine can run, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "rans.h"
#include "synthesis_kernel.h"

namespace cachegen {

// The kernels that run here, fastest first; the last is always the portable one.
std::vector<const Kernel*> supported_kernels();

// The kernel of that name; throws std::invalid_argument if there is none or it does not run here.
const Kernel& find_kernel(const std::string& name);

// Likewise the synthesis kernel of that name.
const SynthesisKernel& find_synthesis_kernel(const std::string& name);

}  // namespace cachegen
