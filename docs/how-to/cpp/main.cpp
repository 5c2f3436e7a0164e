// One box of voxels through an exported network, in C++ without Python.
//
//   hypoxnet_case network.pt2 CHANNELS COLUMNS MULTIPLE BLOCKS     of hypoxnet export --to aotinductor
//   hypoxnet_case network.ts  CHANNELS COLUMNS MULTIPLE BLOCKS     of hypoxnet export --to torchscript
//
// From export.json: the number of `channels` and of `covariates`, and `sides_are_multiples_of`. The box has BLOCKS times
// MULTIPLE voxels along each side, at least two blocks. A compiled network checks no sizes: of a side that is no
// multiple it leaves the rest out and says nothing. The box here is a ramp with a tumour in its middle; put a prepared
// case in its place.

#include <iostream>
#include <string>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

namespace {

// Inputs in the order of export.json: image, presence, tumour, tumour_known, covariates, covariates_known.
std::vector<at::Tensor> example(int64_t channels, int64_t columns, int64_t side) {
  auto image = torch::linspace(-1.0, 1.0, channels * side * side * side).reshape({1, channels, side, side, side});
  auto tumour = torch::zeros({1, 1, side, side, side});
  const torch::indexing::Slice middle(side / 4, side - side / 4);
  tumour.index_put_({0, 0, middle, middle, middle}, 1.0);
  std::vector<at::Tensor> inputs{image, torch::ones({1, channels}), tumour, torch::ones({1})};
  if (columns > 0) {
    inputs.push_back(torch::zeros({1, columns}));
    inputs.push_back(torch::ones({1, columns}));
  }
  return inputs;
}

// Outputs in the order of export.json: pred, incidence and what windows add up to.
std::vector<at::Tensor> compiled(const std::string& path, const std::vector<at::Tensor>& inputs) {
  torch::inductor::AOTIModelPackageLoader network(path);
  return network.run(inputs);
}

std::vector<at::Tensor> script(const std::string& path, const std::vector<at::Tensor>& inputs) {
  auto network = torch::jit::load(path, torch::kCPU);
  const auto found = network.forward({inputs.begin(), inputs.end()}).toGenericDict();
  std::vector<at::Tensor> outputs;
  for (const char* name : {"pred", "incidence"}) {
    if (found.contains(name)) outputs.push_back(found.at(name).toTensor());
  }
  return outputs;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 6) {
    std::cerr << "usage: hypoxnet_case network.pt2|network.ts CHANNELS COLUMNS MULTIPLE BLOCKS\n";
    return 2;
  }
  const std::string path = arguments[1];
  const c10::InferenceMode guard;
  const int64_t side = std::stoll(arguments[4]) * std::stoll(arguments[5]);
  const auto inputs = example(std::stoll(arguments[2]), std::stoll(arguments[3]), side);
  const auto outputs = path.ends_with(".pt2") ? compiled(path, inputs) : script(path, inputs);
  std::cout.precision(6);
  std::cout << "pred " << outputs[0].sizes() << " mean " << outputs[0].mean().item<float>() << " largest "
            << outputs[0].max().item<float>() << "\n";
  if (outputs.size() > 1) {
    std::cout << "incidence\n" << outputs[1] << "\n";
  }
  return 0;
} catch (const c10::Error& error) {
  std::cerr << error.what_without_backtrace() << "\n";
  return 2;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
