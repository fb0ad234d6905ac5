// Loaded before a CPU build of torch, it makes that believe in one CUDA device which never does anything.
//
// Tensors of FakeTensorMode have no values; what torch wants of a device for them is a guard for its streams (autograd), whether there
// is an accelerator at all, and which of cuDNN's ways an operation would go. A build for CUDA on a machine without a GPU has a guard and
// hooks of its own, in place of which these come (BUILT_FOR_CUDA, for benchmarks/compiled.py): the guard once it is asked for.
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

const c10::Device DEVICE(c10::DeviceType::CUDA, 0);
const c10::Stream STREAM(c10::Stream::DEFAULT, DEVICE);

struct Guard final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return STREAM; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return STREAM; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
#ifndef BUILT_FOR_CUDA
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
#endif

}  // namespace

namespace at {

struct CUDAHooks final : public CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  bool hasCuDNN() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const override { return true; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
  double batchnormMinEpsilonCuDNN() const override { return 0.0; }
};
#ifndef BUILT_FOR_CUDA
// torch looks for them by this name.
REGISTER_CUDA_HOOKS(CUDAHooks)
#else
namespace detail {
__attribute__((visibility("default"))) const CUDAHooksInterface& getCUDAHooks() {
  static CUDAHooks hooks{CUDAHooksArgs{}};
  return hooks;
}
}  // namespace detail
#endif

namespace accelerator {
// In place of the function of libtorch_cpu, which was built without one.
__attribute__((visibility("default"))) std::optional<c10::DeviceType> getAccelerator(bool) { return c10::DeviceType::CUDA; }
}  // namespace accelerator

}  // namespace at

#ifdef BUILT_FOR_CUDA
extern "C" void take_the_guard() { static c10::impl::DeviceGuardImplRegistrar once(c10::DeviceType::CUDA, new Guard()); }
#endif
