// Writes buffers.pt, a TorchScript module with parameters and with buffers of several kinds, by which their cast is tested.
//
// libtorch=$PWD/.libtorch
// g++ -std=c++17 -isystem $libtorch/include -isystem $libtorch/include/torch/csrc/api/include vision/tests/buffers.cpp \
//   -L$libtorch/lib -ltorch_cpu -lc10 -Wl,-rpath,$libtorch/lib -o /tmp/buffers
// /tmp/buffers vision/tests/buffers.pt
//
// It gives the mean of each channel as the logit of one of three classes, blue first, and leaves out what a mask says:
// libtorch takes neither places nor a mask that are fractions.

#include <torch/script.h>

int main(int, char **arguments) {
  torch::jit::Module module("Buffers");
  module.register_attribute("training", c10::BoolType::get(), true);
  module.register_parameter("weight", torch::tensor({1.0F, 2.0F, 1.0F}), /*is_buffer=*/false);
  module.register_buffer("shift", torch::tensor({0.5, 0.5, 0.5}, torch::kDouble));
  module.register_buffer("order", torch::tensor({2, 1, 0}, torch::kInt64));
  module.register_buffer("left_out", torch::tensor({true, false, false}));
  module.define(R"(
def forward(self, x):
    means = x.mean([2, 3]) * self.weight + self.shift
    return means.index_select(1, self.order).masked_fill(self.left_out, -9.0)
)");
  module.save(arguments[1]);
}
