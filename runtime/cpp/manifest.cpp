// What was validated, as runtime/manifest.py and runtime/task.py describe it; `forms` below are their Structs.
//
// What this reader does not use is held against its form all the same: a field that is not known is a refusal. Only
// `source` and `fitness` are not looked into: no DICOM object is read here, and a bundle that judges fitness is not
// asked for an answer (see predictor.cpp).
#include <algorithm>
#include <limits>
#include <set>

#include "foveola.hpp"
#include "strict_json.hpp"

namespace foveola {
namespace {

constexpr int FORMAT = 1;
constexpr int MOST_CANDIDATES = 1 << 17, MOST_BOXES = 1024, LONGEST_EMBEDDING = 4096;
constexpr double ANY = std::numeric_limits<double>::max();

const std::vector<std::string> KINDS = {"binary",     "multilabel",   "multiclass", "ordinal",
                                        "regression", "segmentation", "detection",  "embedding"};
const std::vector<std::string> ARITHMETIC = {"int8", "float16", "float32"};

Form number() { return real(-ANY, ANY); }

Form task_form() {
  return object({{"name", text(), true},
                 {"kind", word(KINDS), true},
                 {"classes", list(text())},
                 {"size", whole(INT32_MIN, INT32_MAX)},
                 {"columns", list(text())},
                 {"ignore_column", text()},
                 {"exclusive", boolean()},
                 {"exhaustive", boolean()},
                 {"unit", text()},
                 {"plausible", or_null(list(number(), 2, 2))},
                 {"weight", number()},
                 {"operating_point", text()},
                 {"critical", list(text())},
                 {"margins", dictionary(real(0, ANY, true))}});
}

Form proposals_form() {
  return object({{"levels", list(whole(1, 4096), 1, 8), true},
                 {"nms_iou", real(0, 1)},
                 {"kept", whole(1, 2048)},
                 {"min_side", real(0, 1024)},
                 {"box_min_side", real(0, 1024)},
                 {"weights", list(real(0.001, 1000), 4, 4)}});
}

Form output_form() {
  return object({{"task", task_form(), true},
                 {"tensors", list(text()), true},
                 {"thresholds", list(number())},
                 {"mean", list(number())},
                 {"std", list(number())},
                 {"temperature", real(0.01, 100)},
                 {"stride", whole(INT32_MIN, INT32_MAX)},
                 {"nms_iou", number()},
                 {"score_floor", number()},
                 {"max_boxes", whole(INT32_MIN, INT32_MAX)},
                 {"proposals", or_null(proposals_form())}});
}

Form input_form() {
  return object({{"height", whole(1, INT32_MAX), true},
                 {"width", whole(1, INT32_MAX), true},
                 {"channels", whole(1, 3), true},
                 {"crop", word({"none", "fov"})},
                 {"fit", word({"pad", "stretch"})},
                 {"window", word({"full", "percentile"})},
                 {"low", number()},
                 {"high", number()},
                 {"mean", list(number())},
                 {"std", list(number())},
                 {"reduction", word({"box"})}});
}

Form engine_form() {
  const Form onnxruntime = object({{"graph", text()},
                                   {"arithmetic", word(ARITHMETIC)},
                                   {"graph_optimization", word({"disable", "basic", "extended", "all"})},
                                   {"threads", whole(1)},
                                   {"spinning", boolean()},
                                   {"pinned", boolean()}},
                                  "engine");
  const Form openvino = object({{"graph", text()},
                                {"weights", text()},
                                {"arithmetic", word(ARITHMETIC)},
                                {"quantiser", word({"portable", "nncf"})},
                                {"plugin", word({"CPU", "GPU", "NPU"})},
                                {"inference_precision", word({"f32", "f16"})},
                                {"threads", whole(1, 4096)},
                                {"pinned", boolean()}},
                               "engine");
  const Form tensorrt =
      object({{"graph", text()}, {"plan", text()}, {"arithmetic", word(ARITHMETIC)}, {"tf32", boolean()}}, "engine");
  return [=](const Json& value, const std::string& path) {
    const std::string engine = value.is_object() ? value.value("engine", "") : "";
    if (engine == "onnxruntime") return onnxruntime(value, path);
    if (engine == "openvino") return openvino(value, path);
    if (engine != "tensorrt") throw Fault("Invalid value '" + engine + "' - at `" + path + ".engine`");
    tensorrt(value, path);
    if (value.value("tf32", false)) throw Fault("Expected false - at `" + path + ".tf32`");
  };
}

Form histogram_form() {
  const Form shape =
      object({{"edges", list(number(), 0, 63), true}, {"counts", list(whole(0, std::int64_t{1} << 40)), true}});
  return [=](const Json& value, const std::string& path) {
    shape(value, path);
    const auto edges = value["edges"].get<std::vector<double>>();
    const bool rise = std::adjacent_find(edges.begin(), edges.end(), std::greater_equal<>()) == edges.end();
    if (!rise || value["counts"].size() != edges.size() + 1) throw Fault("the edges do not rise - at `" + path + "`");
  };
}

Form manifest_form() {
  const Form amount = real(0, 1e9, true);
  const Form difference = object({{"tensor", text(), true},
                                  {"largest", number(), true},
                                  {"mean", number(), true},
                                  {"decisions", whole(INT64_MIN), true},
                                  {"flips", whole(INT64_MIN), true}});
  const Form comparison = object({{"engine", word({"onnxruntime", "openvino", "tensorrt"}), true},
                                  {"images", whole(INT64_MIN), true},
                                  {"outputs", list(difference), true}});
  const Form calibration =
      object({{"method", word({"none", "minmax", "percentile", "entropy", "mse", "learned"}), true},
              {"images", whole(INT64_MIN), true},
              {"min_images", whole(INT64_MIN), true},
              {"images_digest", text(), true}});
  const Form fit = object({{"task", text(), true},
                           {"split", text(), true},
                           {"images", whole(INT64_MIN), true},
                           {"temperature", real(0.01, 100), true},
                           {"before", number(), true},
                           {"after", number(), true}});
  const Form reference = object({{"split", text(), true},
                                 {"images", whole(1), true},
                                 {"patients", whole(1), true},
                                 {"inputs", dictionary(histogram_form(), 2048), true},
                                 {"answers", dictionary(histogram_form(), 2048), true}});
  const Form budget = object({{"latency_ms", amount, true}, {"size_mb", amount, true}, {"memory_mib", amount, true}});
  const Form provenance = object({{"recipe", text(), true},
                                  {"recipe_digest", text(), true},
                                  {"data_digest", text(), true},
                                  {"teacher_digest", text(), true},
                                  {"student_digest", text(), true},
                                  {"seed", whole(INT64_MIN), true},
                                  {"versions", dictionary(text()), true},
                                  {"network", text()},
                                  {"pruning", text()}});
  return object({{"format", whole(INT64_MIN), true},
                 {"name", text(), true},
                 {"version", text(), true},
                 {"device", text(), true},
                 {"input", input_form(), true},
                 {"input_type", word({"float32", "uint16"})},
                 {"outputs", list(output_form()), true},
                 {"engines", list(engine_form()), true},
                 {"calibration", calibration, true},
                 {"comparisons", list(comparison)},
                 {"temperatures", list(fit)},
                 {"source", or_null(any_object())},
                 {"fitness", or_null(any_object())},
                 {"reference", or_null(reference)},
                 {"budget", or_null(budget)},
                 {"provenance", provenance, true}});
}

Task read_task(const Json& value) {
  Task task;
  task.name = value["name"];
  task.unit = value.value("unit", "");
  const auto kind = std::find(KINDS.begin(), KINDS.end(), value["kind"].get<std::string>());
  task.kind = static_cast<Kind>(kind - KINDS.begin());
  task.classes = value.value("classes", std::vector<std::string>());
  task.size = value.value("size", 0);
  task.exclusive = value.value("exclusive", true);
  const std::string where = "task '" + task.name + "': ";
  const bool few = task.kind == Kind::binary || task.kind == Kind::multiclass || task.kind == Kind::ordinal;
  const bool embeds = task.kind == Kind::embedding;
  if (embeds ? task.size < 2 || task.size > LONGEST_EMBEDDING : task.size != 0)
    throw Fault(where + "another size than its kind has");
  if (task.classes.size() < (few ? 2u : embeds ? 0u : 1u) || (task.kind == Kind::binary && task.classes.size() != 2))
    throw Fault(where + "another number of classes than its kind has");
  if (std::set<std::string>(task.classes.begin(), task.classes.end()).size() != task.classes.size())
    throw Fault(where + "two classes have the same name");
  const bool letters = !task.name.empty() && std::all_of(task.name.begin(), task.name.end(), [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c < 0;
  });
  if (!letters || (task.name[0] >= '0' && task.name[0] <= '9')) throw Fault(where + "not made of letters and digits");
  if (task.name == "image") throw Fault(where + "the name is that of the graph's input");
  return task;
}

std::optional<Proposals> read_proposals(const Json& value, const Output& output) {
  if (!value.contains("proposals") || value["proposals"].is_null()) return std::nullopt;
  const Json& found = value["proposals"];
  Proposals how;
  how.levels = found["levels"].get<std::vector<int>>();
  how.nms_iou = found.value("nms_iou", how.nms_iou);
  how.kept = found.value("kept", how.kept);
  how.min_side = found.value("min_side", how.min_side);
  how.box_min_side = found.value("box_min_side", how.box_min_side);
  if (found.contains("weights")) how.weights = found["weights"].get<std::array<double, 4>>();
  const std::set<std::string> names(output.tensors.begin(), output.tensors.end());
  if (output.task.kind != Kind::detection || output.tensors.size() != 4 || names.size() != 4)
    throw Fault("task '" + output.task.name + "': proposals are of a detection and come in 4 tensors");
  if (output.max_boxes < 1 || output.max_boxes > MOST_BOXES ||
      static_cast<std::size_t>(how.kept) * output.task.classes.size() > MOST_CANDIDATES)
    throw Fault("task '" + output.task.name + "': more boxes than are decoded");
  return how;
}

Output read_output(const Json& value) {
  Output output;
  output.task = read_task(value["task"]);
  output.tensors = value["tensors"].get<std::vector<std::string>>();
  output.thresholds = value.value("thresholds", output.thresholds);
  output.mean = value.value("mean", output.mean);
  output.std = value.value("std", output.std);
  output.temperature = value.value("temperature", 1.0);
  output.stride = value.value("stride", 0);
  output.nms_iou = value.value("nms_iou", output.nms_iou);
  output.score_floor = value.value("score_floor", output.score_floor);
  output.max_boxes = value.value("max_boxes", output.max_boxes);
  output.proposals = read_proposals(value, output);
  const bool tempered = output.task.kind <= Kind::ordinal;
  if (output.temperature != 1.0 && !tempered)
    throw Fault("task '" + output.task.name + "': its kind has no temperature");
  return output;
}

InputSpec read_input(const Json& value) {
  InputSpec spec;
  spec.height = value["height"];
  spec.width = value["width"];
  spec.channels = value["channels"];
  if (spec.channels == 2) throw Fault("Invalid enum value 2 - at `$.input.channels`");
  spec.fov = value.value("crop", "none") == "fov";
  spec.pad = value.value("fit", "pad") == "pad";
  spec.percentile = value.value("window", "full") == "percentile";
  spec.low = value.value("low", spec.low);
  spec.high = value.value("high", spec.high);
  spec.blocks = value.contains("reduction");
  return spec;
}

OpenVinoOptions read_openvino(const Json& value) {
  OpenVinoOptions options;
  options.graph = value.value("graph", options.graph);
  options.weights = value.value("weights", options.weights);
  options.arithmetic = value.value("arithmetic", options.arithmetic);
  options.plugin = value.value("plugin", options.plugin);
  options.precision = value.value("inference_precision", options.precision);
  options.threads = value.value("threads", options.threads);
  options.pinned = value.value("pinned", options.pinned);
  return options;
}

void read_engine(const Json& value, Manifest& manifest) {
  const std::string engine = value["engine"];
  if (engine == "openvino" && !manifest.openvino) manifest.openvino = read_openvino(value);
  const std::string second = engine == "openvino" ? "weights" : engine == "tensorrt" ? "plan" : "";
  const std::string defaults[] = {
      engine == "onnxruntime" ? "model.onnx" : engine + (second == "plan" ? ".onnx" : ".xml"),
      engine == "openvino" ? "openvino.bin" : "tensorrt.json"};
  manifest.files.push_back(value.value("graph", defaults[0]));
  if (!second.empty()) manifest.files.push_back(value.value(second, defaults[1]));
}

// The format is read first and must be known: what else a later one holds is not for this reader to say.
void check_format(const Json& value, const std::string& place) {
  object({{"format", whole(INT64_MIN), true}})(
      Json{{"format", value.is_object() ? value.value("format", Json()) : Json()}}, "$");
  const std::int64_t found = value["format"];
  if (found > FORMAT)
    throw Error(place, "format " + std::to_string(found) + " is newer than this runtime's " + std::to_string(FORMAT),
                "update foveola on the device");
}

}  // namespace

Manifest decode_manifest(const Bytes& data, const std::string& place) {
  try {
    const Json value = parse_json(data);
    check_format(value, place);
    static const Form form = manifest_form();
    form(value, "$");
    Manifest manifest;
    manifest.name = value["name"];
    manifest.version = value["version"];
    manifest.device = value["device"];
    manifest.input = read_input(value["input"]);
    manifest.words = value.value("input_type", "float32") == "uint16";
    for (const Json& one : value["outputs"]) manifest.outputs.push_back(read_output(one));
    for (const Json& one : value["engines"]) read_engine(one, manifest);
    manifest.judges_fitness = value.contains("fitness") && !value["fitness"].is_null();
    if (value["format"] != FORMAT)
      throw Error(place, "format " + value["format"].dump() + " is unknown",
                  "this runtime reads format " + std::to_string(FORMAT));
    return manifest;
  } catch (const Fault& fault) {
    throw Error(place, std::string("not a valid manifest: ") + fault.what(), "make the bundle anew");
  }
}

int Task::channels() const {
  const int count = static_cast<int>(classes.size());
  switch (kind) {
    case Kind::binary: return 1;
    case Kind::ordinal: return count - 1;
    case Kind::segmentation: return exclusive ? count + 1 : count;
    case Kind::embedding: return size;
    default: return count;
  }
}

double Output::threshold(std::size_t index) const {
  if (thresholds.empty()) return 0.5;
  if (index >= thresholds.size())
    throw Error("task " + task.name, "fewer thresholds than classes", "make the bundle anew");
  return thresholds[index];
}

}  // namespace foveola
