#include "dispatch.h"

#include <stdexcept>

namespace cachegen {

std::vector<const Kernel*> supported_kernels() {
  std::vector<const Kernel*> kernels;
#ifdef CACHEGEN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2");
  if (avx512) kernels.push_back(&kAvx512);
  if (avx2) kernels.push_back(&kAvx2);
#endif
  kernels.push_back(&kPortable);
  return kernels;
}

const Kernel& find_kernel(const std::string& name) {
  for (const Kernel* kernel : supported_kernels()) {
    if (name == kernel->name) return *kernel;
  }
  throw std::invalid_argument("no kernel named '" + name + "' runs on this machine");
}

}  // namespace cachegen
