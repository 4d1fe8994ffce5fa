// What torch-sys does not bring: convolutions of oneDNN as PyTorch's own compiler calls them, weights laid out once, limit
// and bias in the same pass; and where TorchScript prints to.
//
// The convolutions are operators of libtorch_cpu without a function of their own in its headers, so they are looked up by
// name and called with boxed arguments. Tensors cross the border as torch-sys passes them, as `at::Tensor *`. An error is
// a text in `*error`, from malloc; then the result is null.

#include <cstdio>
#include <cstring>
#include <exception>
#include <optional>
#include <string>

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/csrc/jit/runtime/print_handler.h>

namespace {

using List = c10::List<int64_t>;

template <typename... Arguments>
at::Tensor *call(const char *name, char **error, Arguments &&...arguments) {
  try {
    auto operation = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
    torch::jit::Stack stack;
    torch::jit::push(stack, std::forward<Arguments>(arguments)...);
    operation.callBoxed(stack);
    return new at::Tensor(stack.at(0).toTensor());
  } catch (const std::exception &caught) {
    *error = strdup(caught.what());
  } catch (...) {
    *error = strdup("unknown exception");
  }
  return nullptr;
}

List twice(int64_t number) { return List({number, number}); }

}  // namespace

extern "C" {

// Lays the weights of a convolution out as oneDNN reads them.
at::Tensor *tidemill_pack(const at::Tensor *weight, int64_t padding, int64_t stride, int64_t groups, char **error) {
  return call("mkldnn::_reorder_convolution_weight", error, *weight, twice(padding), twice(stride), twice(1), groups,
              c10::IValue());
}

// A convolution with packed weights and a bias, limited to 0 to 6 where `relu6` is set.
at::Tensor *tidemill_convolve(const at::Tensor *input, const at::Tensor *weight, const at::Tensor *bias, int64_t padding,
                              int64_t stride, int64_t groups, bool relu6, char **error) {
  c10::List<std::optional<at::Scalar>> limits;
  if (relu6) {
    limits.push_back(at::Scalar(0.0));
    limits.push_back(at::Scalar(6.0));
  }
  return call("mkldnn::_convolution_pointwise", error, *input, *weight, *bias, twice(padding), twice(stride), twice(1),
              groups, relu6 ? "hardtanh" : "none", std::move(limits), "");
}

// What modules print goes to standard error instead of standard output. Where that is closed it is lost.
void tidemill_print_to_stderr() {
  torch::jit::setPrintHandler([](const std::string &text) { std::fwrite(text.data(), 1, text.size(), stderr); });
}

}
