// OpenVINO through its C interface, with the manifest's settings and no others, as runtime/engine.py opens it.
//
// Laws: every setting that changes answers or times is given, and read back after the engine has opened; a session that
// runs otherwise is refused. Nothing is read from or written to a cache.
#include <algorithm>
#include <cstring>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include <openvino/c/openvino.h>

#include "foveola.hpp"

namespace foveola {
namespace {

const char* const ANEW = "make the bundle anew";

template <class T, void (*F)(T*)>
struct Freed {
  void operator()(T* one) const { F(one); }
};
template <class T, void (*F)(T*)>
using Owned = std::unique_ptr<T, Freed<T, F>>;

void free_text(char* text) { ov_free(text); }
using Text = Owned<char, free_text>;

void must(ov_status_e status, const std::string& member) {
  if (status == OK) return;
  const char* last = ov_get_last_err_msg();
  std::string reason = last && *last ? last : ov_get_error_info(status);
  std::replace_if(reason.begin(), reason.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  ov_version_t version{};
  const std::string number = ov_get_openvino_version(&version) == OK ? version.buildNumber : "";
  ov_version_free(&version);
  throw Error(member, "openvino " + number + " does not open it (" + reason.substr(0, 300) + ")",
              "update the engine or the bundle");
}

int cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::vector<std::pair<std::string, std::string>> settings_of(const OpenVinoOptions& options) {
  std::vector<std::pair<std::string, std::string>> settings = {
      {"INFERENCE_PRECISION_HINT", options.precision}, {"PERFORMANCE_HINT", "LATENCY"}, {"NUM_STREAMS", "1"}};
  if (options.plugin != "CPU") return settings;
  settings.emplace_back("INFERENCE_NUM_THREADS", std::to_string(options.threads));
  settings.emplace_back("ENABLE_CPU_PINNING", options.pinned ? "YES" : "NO");
  return settings;
}

std::string property(const ov_compiled_model_t* model, const std::string& name) {
  char* value = nullptr;
  if (ov_compiled_model_get_property(model, name.c_str(), &value) != OK) return "unknown";
  return Text(value).get();
}

// An old plugin may drop a hint without a word, and an environment may set others.
void require(const ov_compiled_model_t* model, const OpenVinoOptions& options) {
  std::string others;
  for (auto [name, wanted] : settings_of(options)) {
    if (name == "INFERENCE_NUM_THREADS") wanted = std::to_string(std::min(options.threads, cores()));
    std::string found = property(model, name);
    if (name == "ENABLE_CPU_PINNING") found = found == "YES" || found == "true" || found == "1" ? "YES" : "NO";
    if (found != wanted) others += (others.empty() ? "" : "; ") + name + " is " + found + ", validated was " + wanted;
  }
  if (!others.empty())
    throw Error("openvino", "the session runs otherwise than it was validated: " + others,
                "unset what overrides it, or take the engine's version of the bundle");
}

using Port = Owned<ov_output_const_port_t, ov_output_const_port_free>;
using TensorOwner = Owned<ov_tensor_t, ov_tensor_free>;

std::string name_of(const Port& port, const std::string& member) {
  char* name = nullptr;
  must(ov_port_get_any_name(port.get(), &name), member);
  return Text(name).get();
}

std::vector<std::int64_t> shape_of(const Port& port, const std::string& member) {
  ov_shape_t shape{};
  must(ov_const_port_get_shape(port.get(), &shape), member);  // a graph with open axes has none, and is refused here
  std::vector<std::int64_t> sides(shape.dims, shape.dims + shape.rank);
  ov_shape_free(&shape);
  return sides;
}

}  // namespace

struct Session::Engine {
  std::string member;
  bool words = false;
  Owned<ov_core_t, ov_core_free> core;
  Owned<ov_model_t, ov_model_free> model;
  Owned<ov_compiled_model_t, ov_compiled_model_free> compiled;
  Owned<ov_infer_request_t, ov_infer_request_free> request;
  std::vector<float> floats;
  std::vector<std::uint16_t> shares;
  std::vector<std::string> outputs;

  void open(const OpenVinoOptions& options, const Members& members);
  void bind(const InputSpec& spec);
};

void Session::Engine::open(const OpenVinoOptions& options, const Members& members) {
  ov_core_t* new_core = nullptr;
  must(ov_core_create(&new_core), "openvino");
  core.reset(new_core);
  const Bytes& graph = members.at(options.graph);
  const Bytes& weights = members.at(options.weights);
  std::int64_t size = static_cast<std::int64_t>(weights.size());
  ov_tensor_t* held = nullptr;
  must(ov_tensor_create_from_host_ptr(U8, {1, &size}, const_cast<char*>(weights.data()), &held), member);
  const TensorOwner holder(held);
  ov_model_t* new_model = nullptr;
  must(ov_core_read_model_from_memory_buffer(core.get(), graph.data(), graph.size(), held, &new_model), member);
  model.reset(new_model);
  auto s = settings_of(options);
  s.emplace_back("CACHE_DIR", "");
  ov_compiled_model_t* made = nullptr;
  const char* plugin = options.plugin.c_str();
  const auto k = [&](std::size_t i) { return s[i].first.c_str(); };
  const auto v = [&](std::size_t i) { return s[i].second.c_str(); };
  if (s.size() == 4)
    must(ov_core_compile_model(core.get(), model.get(), plugin, 8, &made, k(0), v(0), k(1), v(1), k(2), v(2), k(3),
                               v(3)),
         member);
  else
    must(ov_core_compile_model(core.get(), model.get(), plugin, 12, &made, k(0), v(0), k(1), v(1), k(2), v(2), k(3),
                               v(3), k(4), v(4), k(5), v(5)),
         member);
  compiled.reset(made);
  require(compiled.get(), options);
}

void Session::Engine::bind(const InputSpec& spec) {
  std::size_t inputs = 0;
  must(ov_compiled_model_inputs_size(compiled.get(), &inputs), member);
  ov_output_const_port_t* found = nullptr;
  must(ov_compiled_model_input_by_index(compiled.get(), 0, &found), member);
  const Port input(found);
  if (inputs != 1 || name_of(input, member) != "image") throw Error(member, "its inputs are not image", ANEW);
  const std::vector<std::int64_t> wanted = {1, spec.channels, spec.height, spec.width};
  ov_element_type_e type{};
  must(ov_port_get_element_type(input.get(), &type), member);
  if (shape_of(input, member) != wanted || type != (words ? U16 : F32))
    throw Error(member, "the graph takes another shape or type than the manifest says", ANEW);
  const auto size = static_cast<std::size_t>(spec.channels) * static_cast<std::size_t>(spec.height) *
                    static_cast<std::size_t>(spec.width);
  floats.resize(words ? 0 : size);
  shares.resize(words ? size : 0);
  std::size_t count = 0;
  must(ov_compiled_model_outputs_size(compiled.get(), &count), member);
  for (std::size_t i = 0; i < count; ++i) {
    ov_output_const_port_t* output = nullptr;
    must(ov_compiled_model_output_by_index(compiled.get(), i, &output), member);
    outputs.push_back(name_of(Port(output), member));
  }
  ov_infer_request_t* made = nullptr;
  must(ov_compiled_model_create_infer_request(compiled.get(), &made), member);
  request.reset(made);
  std::vector<std::int64_t> sides = wanted;
  void* memory = words ? static_cast<void*>(shares.data()) : static_cast<void*>(floats.data());
  ov_tensor_t* bound = nullptr;
  must(ov_tensor_create_from_host_ptr(type, {4, sides.data()}, memory, &bound), member);
  const TensorOwner holder(bound);
  must(ov_infer_request_set_input_tensor(request.get(), bound), member);
}

Session::Session(const OpenVinoOptions& options, const Members& members, const Manifest& manifest)
    : engine_(std::make_unique<Engine>()) {
  engine_->member = options.graph;
  engine_->words = manifest.words;
  engine_->open(options, members);
  engine_->bind(manifest.input);
  for (const Output& output : manifest.outputs)
    for (const std::string& name : output.tensors)
      if (std::find(engine_->outputs.begin(), engine_->outputs.end(), name) == engine_->outputs.end())
        throw Error(manifest.name + " on openvino", "the graph has no output " + name, ANEW);
}

Session::~Session() = default;

Raw Session::run(const std::vector<float>& x_CHW) {
  Engine& e = *engine_;
  if (e.words)  // 0..1 as words, rounded to the nearest even
    for (std::size_t i = 0; i < e.shares.size(); ++i)
      e.shares[i] =
          static_cast<std::uint16_t>(__builtin_nearbyint(std::clamp(static_cast<double>(x_CHW[i]), 0.0, 1.0) * 65535));
  else
    std::copy(x_CHW.begin(), x_CHW.end(), e.floats.begin());
  must(ov_infer_request_infer(e.request.get()), e.member);
  Raw raw;
  for (std::size_t i = 0; i < e.outputs.size(); ++i) {
    ov_tensor_t* found = nullptr;
    must(ov_infer_request_get_output_tensor_by_index(e.request.get(), i, &found), e.member);
    const TensorOwner holder(found);
    ov_element_type_e type{};
    ov_shape_t shape{};
    void* data = nullptr;
    must(ov_tensor_get_element_type(found, &type), e.member);
    must(ov_tensor_get_shape(found, &shape), e.member);
    Tensor tensor{{shape.dims, shape.dims + shape.rank}, {}};
    ov_shape_free(&shape);
    if (type != F32) throw Error(e.member, "output " + e.outputs[i] + " is no float32", ANEW);
    std::size_t count = 1;
    for (std::int64_t side : tensor.shape) count *= static_cast<std::size_t>(side);
    must(ov_tensor_data(found, &data), e.member);
    tensor.data.resize(count);
    std::memcpy(tensor.data.data(), data, count * sizeof(float));
    raw[e.outputs[i]] = std::move(tensor);
  }
  return raw;
}

}  // namespace foveola
