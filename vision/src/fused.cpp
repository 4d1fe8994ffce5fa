// What torch-sys does not bring: convolutions of oneDNN as PyTorch's own compiler calls them, weights laid out once, limit
// and bias in the same pass; the cast of a TorchScript module, its buffers among it, and where it prints to; and fp32 that
// is fp32 on a GPU.
//
// The convolutions are operators of libtorch_cpu without a function of their own in its headers, so they are looked up by
// name and called with boxed arguments. Tensors and modules cross the border as torch-sys passes them, as `at::Tensor *` and
// `torch::jit::Module *`. An error is a text in `*error`, from malloc; then the result is null, or below zero.

#include <cstdio>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <unordered_set>

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/csrc/jit/api/module.h>
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

// Makes numbers that have a fraction ones of a kind (the number of an `at::ScalarType`): parameters, and buffers as well.
// What counts or says yes or no stays what it is. Returns how many bytes all of them take then.
int64_t tidemill_cast(const torch::jit::Module *module, int kind, char **error) {
  try {
    const auto wanted = static_cast<at::ScalarType>(kind);
    // A tensor that the module has under several names is there once.
    std::unordered_set<const void *> seen;
    int64_t bytes = 0;
    const auto cast = [&](const at::Tensor &tensor) {
      if (!tensor.defined() || !seen.insert(tensor.unsafeGetTensorImpl()).second) {
        return;
      }
      if (tensor.is_floating_point()) {
        tensor.set_data(tensor.detach().to(wanted));
      }
      bytes += static_cast<int64_t>(tensor.nbytes());
    };
    for (const auto &parameter : module->parameters()) {
      cast(parameter);
    }
    for (const auto &buffer : module->buffers()) {
      cast(buffer);
    }
    return bytes;
  } catch (const std::exception &caught) {
    *error = strdup(caught.what());
  } catch (...) {
    *error = strdup("unknown exception");
  }
  return -1;
}

// On a GPU, fp32 is fp32 from now on. By itself libtorch lets cuDNN round what a convolution multiplies to 10 bits (TF32),
// on GPUs since Ampere; multiplications of matrices it leaves alone.
void tidemill_exact_convolutions() { at::globalContext().setAllowTF32CuDNN(false); }

// What modules print goes to standard error instead of standard output. Where that is closed it is lost.
void tidemill_print_to_stderr() {
  torch::jit::setPrintHandler([](const std::string &text) { std::fwrite(text.data(), 1, text.size(), stderr); });
}

}
