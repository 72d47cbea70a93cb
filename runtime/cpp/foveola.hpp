// All that the reader's files share: errors, bundles, pictures, answers. Each part tells which Python file it follows.
#ifndef FOVEOLA_HPP
#define FOVEOLA_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace foveola {

using Bytes = std::string;

// --- errors: runtime/errors.py -------------------------------------------------------------------------------------

enum class Code { done = 0, refused = 1, usage = 2, part_missing = 4, not_vouched = 5 };

class Error : public std::runtime_error {
 public:
  // One line of place, fault and mend; what a terminal would obey is shown instead.
  Error(const std::string& place, const std::string& fault, const std::string& mend = "", Code code = Code::refused);
  const Code code;
};

// --- the bundle: runtime/container.py, signature.py, manifest.py, bundle.py ----------------------------------------

using Members = std::map<std::string, Bytes>;
using Digests = std::map<std::string, std::string>;  // sha256 in hexadecimal

Members read_members(const std::string& path);
std::string sha256_hex(const Bytes& data);
Digests member_digests(const Members& members);
void verify_digests(const Digests& digests, const Bytes& signature, const Bytes& pem, const std::string& place);

struct InputSpec {
  int height = 0, width = 0, channels = 1;
  bool fov = false, pad = true, percentile = false, blocks = false;
  double low = 0.5, high = 99.5;
};

struct Proposals {
  std::vector<int> levels;
  double nms_iou = 0.7;
  int kept = 1000;
  double min_side = 1e-3, box_min_side = 1e-2;
  std::array<double, 4> weights{10, 10, 5, 5};
};

enum class Kind { binary, multilabel, multiclass, ordinal, regression, segmentation, detection, embedding };

struct Task {
  std::string name, unit;
  Kind kind = Kind::binary;
  std::vector<std::string> classes;
  int size = 0;  // numbers of an embedding
  bool exclusive = true;
  int channels() const;
};

struct Output {
  Task task;
  std::vector<std::string> tensors;
  std::vector<double> thresholds, mean, std;
  double temperature = 1;
  int stride = 0;
  double nms_iou = 0.5, score_floor = 0.05;
  int max_boxes = 100;
  std::optional<Proposals> proposals;
  double threshold(std::size_t index) const;
};

struct OpenVinoOptions {
  std::string graph = "openvino.xml", weights = "openvino.bin", arithmetic = "int8", plugin = "CPU", precision = "f32";
  int threads = 2;
  bool pinned = false;
};

struct Manifest {
  std::string name, version, device;
  InputSpec input;
  bool words = false;  // the graph takes uint16
  std::vector<Output> outputs;
  std::vector<std::string> files;  // that its engines read
  std::optional<OpenVinoOptions> openvino;
  bool judges_fitness = false;
};

Manifest decode_manifest(const Bytes& data, const std::string& place);

struct Bundle {
  Manifest manifest;
  Members members;
  std::string digest, core_digest;
};

// Read a bundle that somebody vouches for. Without `key`: the file that FOVEOLA_KEY names, else NAME.pub beside it.
Bundle open_bundle(const std::string& path, const std::optional<std::string>& key);

// --- pictures: runtime/image.py ------------------------------------------------------------------------------------

// Grey of 8 or 16 bits, or RGB of 8: `words` holds deep grey, `bytes` all others, row by row.
struct Picture {
  int width = 0, height = 0, channels = 1;
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint16_t> words;
  bool deep() const { return !words.empty(); }
  std::size_t pixels() const { return static_cast<std::size_t>(width) * static_cast<std::size_t>(height); }
};

struct Geometry {
  int image_height, image_width, x0, y0, x1, y1;
  double scale_x, scale_y;
  int pad_x, pad_y, content_width, content_height;
};

struct Prepared {
  std::vector<float> x_CHW;
  Geometry geometry;
};

constexpr std::size_t MAX_FILE_BYTES = std::size_t{256} << 20;

Bytes read_file(const std::string& path, const std::string& place, std::size_t most);
Picture decode_picture(const Bytes& data, const std::string& place);
Picture decode_png(const Bytes& data, const std::string& place);
Picture decode_jpeg(const Bytes& data, const std::string& place);
void check_size(std::uint64_t width, std::uint64_t height, const std::string& place);
int exif_orientation(const Bytes& tiff, const std::string& place);  // 1 where there is none
int xmp_orientation(const Bytes& xmp);                              // 0 where there is none
Picture upright(Picture picture, int orientation, const std::string& place);
Bytes pixel_digest(const Picture& picture);  // as runtime/golden.py has it, 32 bytes

enum class Filter { box, bilinear };
Picture resize(const Picture& picture, int width, int height, Filter filter);  // Pillow's, bit for bit
Picture resize_by_blocks(const Picture& picture, int width, int height);       // runtime/reduce.py
Picture reduce(const Picture& picture, int across, int down);                  // means of blocks
Picture to_grey(const Picture& picture);                                       // ITU-R 601, as Pillow rounds it
Prepared prepare(const Picture& picture, const InputSpec& spec);

// --- numbers as numpy and Python have them -------------------------------------------------------------------------

float exp32(float x);
double exp64(double x);
template <class T>
T sigmoid(T x);
std::string python_repr(double value);
std::string python_string(const std::string& utf8);  // as json.dumps quotes it

// --- answers: runtime/answer.py, suppression.py, two_stage.py ------------------------------------------------------

struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> data;
};
using Raw = std::map<std::string, Tensor>;

struct Finding {
  std::string task, label;
  double probability, threshold;
  bool positive;
};
struct Choice {
  std::string task;
  std::size_t index;
  std::vector<double> probabilities;
  std::vector<std::string> classes;
};
struct Measurement {
  std::string task, name;
  double value;
  std::string unit;
};
struct Mask {
  std::string task, label;
  int width, height;
  std::vector<std::uint8_t> pixels;  // 0 or 1, row by row
  std::int64_t area_px;
  double fraction;
};
struct Box {
  std::string task, label;
  double score, x1, y1, x2, y2;
  bool positive;
};
struct Embedding {
  std::string task;
  std::vector<double> values;  // float32, of length 1
};
struct Prediction {
  std::vector<Finding> findings;
  std::vector<Choice> choices;
  std::vector<Measurement> measurements;
  std::vector<Mask> masks;
  std::vector<Box> boxes;
  std::vector<Embedding> embeddings;
};

// In input pixels; label counts the task's classes.
struct RawBox {
  double x1, y1, x2, y2, score;
  std::size_t label;
};

Prediction decode(const std::vector<Output>& outputs, const Raw& raw, const Geometry& geometry, const InputSpec& spec);
std::vector<RawBox> one_stage(const Tensor& sides, const Tensor& scores, const Output& output, const InputSpec& spec);
std::vector<RawBox> two_stage(const std::vector<const Tensor*>& tensors, const Output& output, const InputSpec& spec);
// Indices of the boxes kept, by falling score; a box suppresses those of its own label only.
std::vector<std::size_t> nms(const std::vector<RawBox>& boxes, double iou, std::size_t most);
// An embedding at length 1, as runtime/answer.py `directions`; empty where it has no direction.
std::vector<float> direction(const Tensor& raw);
std::string prediction_json(const Prediction& prediction);

// --- the engine and all together: runtime/engine.py, predict.py, selftest.py ---------------------------------------

class Session {
 public:
  Session(const OpenVinoOptions& options, const Members& members, const Manifest& manifest);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  Raw run(const std::vector<float>& x_CHW);  // one call at a time

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
};

class Predictor {
 public:
  explicit Predictor(Bundle bundle);
  Prediction predict(const Bytes& image, const std::string& place);
  Raw run(const std::vector<float>& x_CHW) { return session_.run(x_CHW); }
  const Bundle& bundle() const { return bundle_; }

 private:
  Bundle bundle_;
  Session session_;
};

struct Case {
  std::string place;
  Bytes image, decoded;
  Raw expected;
};
std::vector<Case> golden_cases(const Bundle& bundle, const std::string& engine);

struct SelfTest {
  bool ok = true;
  std::string json;
  std::vector<std::string> lines;
};
SelfTest self_test(Predictor& predictor);

}  // namespace foveola
#endif
