#include "dispatch.h"

#include <stdexcept>

namespace cachegen {
namespace {

struct KernelSet {
  const Kernel* coder;
  const SynthesisKernel* synthesis;
};

std::vector<KernelSet> supported_sets() {
  std::vector<KernelSet> sets;
#ifdef CACHEGEN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512) sets.push_back({&kAvx512, &kSynthesisAvx512});
  if (avx2) sets.push_back({&kAvx2, &kSynthesisAvx2});
#endif
  sets.push_back({&kPortable, &kSynthesisPortable});
  return sets;
}

KernelSet find_set(const std::string& name) {
  for (const KernelSet& set : supported_sets()) {
    if (name == set.coder->name) return set;
  }
  throw std::invalid_argument("no kernel named '" + name + "' runs on this machine");
}

}  // namespace

std::vector<const Kernel*> supported_kernels() {
  std::vector<const Kernel*> kernels;
  for (const KernelSet& set : supported_sets()) kernels.push_back(set.coder);
  return kernels;
}

const Kernel& find_kernel(const std::string& name) { return *find_set(name).coder; }

const SynthesisKernel& find_synthesis_kernel(const std::string& name) {
  return *find_set(name).synthesis;
}

}  // namespace cachegen
