// Raw outputs of the network as answers: findings, choices, measurements, masks, boxes and embeddings, as
// runtime/answer.py.
//
// Law: an output that is missing, of another shape, NaN or infinite is a refusal, never a score; so is an embedding
// without direction. Sums and products are taken in numpy's order and precision: float32 for probabilities and masks,
// float64 for boxes, measurements and the length of embeddings.
#include <algorithm>
#include <cmath>

#include "foveola.hpp"
#include "pairwise.hpp"

namespace foveola {
namespace {

const char* const ANEW = "make the bundle anew";
const char* const NO_ANSWER = "there is no answer for this image";

Error wrong(const Output& output, const std::string& fault, const char* mend = "") {
  return Error("task " + output.task.name, fault, mend);
}

std::string words(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

// How the shape of each tensor must begin, and how many axes it must have.
std::vector<std::pair<std::vector<std::int64_t>, std::size_t>> shapes_of(const Output& output) {
  const std::int64_t channels = output.task.channels();
  if (output.proposals) {
    std::int64_t rows = 0;
    for (int level : output.proposals->levels) rows += level;
    return {{{1, rows, 4}, 3}, {{1, rows}, 2}, {{1, rows, channels + 1}, 3}, {{1, rows, channels, 4}, 4}};
  }
  if (output.task.kind == Kind::detection) return {{{1, 4}, 4}, {{1, channels}, 4}};
  return {{{1, channels}, output.task.kind == Kind::segmentation ? 4u : 2u}};
}

std::vector<const Tensor*> checked(const Output& output, const Raw& raw) {
  const auto shapes = shapes_of(output);
  if (output.tensors.size() != shapes.size()) throw wrong(output, "another number of tensors than its kind has", ANEW);
  std::vector<const Tensor*> tensors;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const std::string name = "output '" + output.tensors[i] + "'";
    const auto found = raw.find(output.tensors[i]);
    if (found == raw.end()) throw wrong(output, "the graph has no " + name, ANEW);
    const auto& [begin, axes] = shapes[i];
    const auto& shape = found->second.shape;
    if (shape.size() != axes || !std::equal(begin.begin(), begin.end(), shape.begin()))
      throw wrong(output, name + " has shape " + words(shape) + ", not " + words(begin));
    for (float value : found->second.data)
      if (!std::isfinite(value)) throw wrong(output, name + " holds NaN or infinity", NO_ANSWER);
    tensors.push_back(&found->second);
  }
  if (output.task.kind == Kind::detection && !output.proposals &&
      (tensors[0]->shape[2] != tensors[1]->shape[2] || tensors[0]->shape[3] != tensors[1]->shape[3]))
    throw wrong(output, "its boxes and scores are on two grids", ANEW);
  return tensors;
}

std::vector<float> tempered(const Output& output, const Tensor& tensor) {
  std::vector<float> values = tensor.data;
  if (output.temperature == 1.0) return values;
  for (float& value : values) {
    value /= static_cast<float>(output.temperature);
    if (!std::isfinite(value))
      throw wrong(output,
                  "output '" + output.tensors[0] + "' is infinite at temperature " + python_repr(output.temperature),
                  NO_ANSWER);
  }
  return values;
}

// Classes of one case: a row. Of a grid: `layers` planes, of which each pixel is summed plane by plane.
std::vector<float> softmax_row(std::vector<float> x) {
  const float most = *std::max_element(x.begin(), x.end());
  for (float& value : x) value = exp32(value - most);
  const float sum = pairwise(x.data(), x.size());
  for (float& value : x) value /= sum;
  return x;
}

std::vector<float> softmax_planes(std::vector<float> x, std::size_t layers) {
  const std::size_t plane = x.size() / layers;
  for (std::size_t i = 0; i < plane; ++i) {
    float most = x[i], sum = 0;
    for (std::size_t k = 1; k < layers; ++k) most = std::max(most, x[k * plane + i]);
    for (std::size_t k = 0; k < layers; ++k) sum += x[k * plane + i] = exp32(x[k * plane + i] - most);
    for (std::size_t k = 0; k < layers; ++k) x[k * plane + i] /= sum;
  }
  return x;
}

// A grade's probability is the difference of neighbouring "above grade k", which are first made to fall.
std::vector<float> graded(const std::vector<float>& x) {
  std::vector<float> above;
  for (float value : x) above.push_back(above.empty() ? sigmoid(value) : std::min(above.back(), sigmoid(value)));
  std::vector<float> chances;
  for (std::size_t k = 0; k <= above.size(); ++k)
    chances.push_back((k ? above[k - 1] : 1.0f) - (k < above.size() ? above[k] : 0.0f));
  return chances;
}

void add_findings(const Output& output, const std::vector<float>& raw, Prediction& prediction) {
  const std::size_t skip = output.task.kind == Kind::binary ? 1 : 0;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    const double probability = sigmoid(raw[i]), limit = output.threshold(i);
    prediction.findings.push_back(
        {output.task.name, output.task.classes[i + skip], probability, limit, probability >= limit});
  }
}

Choice choice(const Output& output, const std::vector<float>& raw) {
  const std::vector<float> chances = output.task.kind == Kind::ordinal ? graded(raw) : softmax_row(raw);
  const auto best = std::max_element(chances.begin(), chances.end());
  return {output.task.name,
          static_cast<std::size_t>(best - chances.begin()),
          {chances.begin(), chances.end()},
          output.task.classes};
}

void add_measurements(const Output& output, const Tensor& raw, Prediction& prediction) {
  const std::size_t count = raw.data.size();
  if (output.mean.size() != count || output.std.size() != count)
    throw wrong(output, "another number of means or standard deviations than measures", ANEW);
  for (std::size_t i = 0; i < count; ++i)
    prediction.measurements.push_back({output.task.name, output.task.classes[i],
                                       static_cast<double>(raw.data[i]) * output.std[i] + output.mean[i],
                                       output.task.unit});
}

void add_embedding(const Output& output, const Tensor& raw, Prediction& prediction) {
  const std::vector<float> values = direction(raw);
  if (values.empty()) throw wrong(output, "output '" + output.tensors[0] + "' is zero and has no direction", NO_ANSWER);
  prediction.embeddings.push_back({output.task.name, {values.begin(), values.end()}});
}

// For positions in input pixels, the grid cell before each and the weight of the cell after it.
struct Neighbours {
  std::vector<std::size_t> before;
  std::vector<float> weight;
};

Neighbours neighbours(std::int64_t cells, int count, double scale, int pad, int length) {
  Neighbours found;
  const double ratio = static_cast<double>(cells) / length;
  for (int i = 0; i < count; ++i) {
    const double at = (i + 0.5) * scale + pad;
    const double place = std::min(std::max(at * ratio - 0.5, 0.0), static_cast<double>(cells - 1));
    found.before.push_back(static_cast<std::size_t>(place));
    found.weight.push_back(static_cast<float>(place - static_cast<double>(found.before.back())));
  }
  return found;
}

// Probabilities (K, h, w) on the grid, brought to the crop's pixels: columns first, then each row mixes two others.
class Bands {
 public:
  Bands(const std::vector<float>& grid, const std::vector<std::int64_t>& shape, const Geometry& g,
        const InputSpec& spec)
      : layers_(static_cast<std::size_t>(shape[1])),
        h_(static_cast<std::size_t>(shape[2])),
        columns_(neighbours(shape[3], g.x1 - g.x0, g.scale_x, g.pad_x, spec.width)),
        rows_(neighbours(shape[2], g.y1 - g.y0, g.scale_y, g.pad_y, spec.height)) {
    const auto w = static_cast<std::size_t>(shape[3]);
    wide_.reserve(layers_ * h_ * width());
    for (std::size_t line = 0; line < layers_ * h_; ++line)
      for (std::size_t x = 0; x < width(); ++x) {
        const std::size_t left = columns_.before[x];
        const float part = columns_.weight[x];
        const float first = grid[line * w + left] * (1 - part),
                    second = grid[line * w + std::min(left + 1, w - 1)] * part;
        wide_.push_back(first + second);
      }
  }
  std::size_t layers() const { return layers_; }
  std::size_t width() const { return columns_.before.size(); }
  std::size_t height() const { return rows_.before.size(); }
  // All layers at one row of the crop: (layers, width).
  void row(std::size_t y, std::vector<float>& out) const {
    const std::size_t upper = rows_.before[y], lower = std::min(upper + 1, h_ - 1);
    const float drop = rows_.weight[y];
    out.resize(layers_ * width());
    for (std::size_t k = 0; k < layers_; ++k)
      for (std::size_t x = 0; x < width(); ++x) {
        const float base = wide_[(k * h_ + upper) * width() + x];
        const float rise = wide_[(k * h_ + lower) * width() + x] - base;
        out[k * width() + x] = rise * drop + base;
      }
  }

 private:
  std::size_t layers_, h_;
  Neighbours columns_, rows_;
  std::vector<float> wide_;
};

void add_masks(const Output& output, const Tensor& raw, const Geometry& g, const InputSpec& spec,
               Prediction& prediction) {
  const Task& task = output.task;
  if (raw.shape[2] < 1 || raw.shape[3] < 1) throw wrong(output, "an empty grid", ANEW);
  const auto channels = static_cast<std::size_t>(task.channels());
  std::vector<float> grid = raw.data;
  if (task.exclusive)
    grid = softmax_planes(std::move(grid), channels);
  else
    std::transform(grid.begin(), grid.end(), grid.begin(), [](float x) { return sigmoid(x); });
  const std::size_t classes = task.classes.size(), width = static_cast<std::size_t>(g.image_width);
  const std::size_t pixels = width * static_cast<std::size_t>(g.image_height);
  std::vector<std::vector<std::uint8_t>> layers(classes, std::vector<std::uint8_t>(pixels));
  std::vector<float> limits, line;
  for (std::size_t k = 0; k < classes; ++k) limits.push_back(static_cast<float>(output.threshold(k)));
  const Bands bands(grid, raw.shape, g, spec);
  for (std::size_t y = 0; y < bands.height(); ++y) {
    bands.row(y, line);
    for (std::size_t x = 0; x < bands.width(); ++x) {
      const std::size_t at = (y + static_cast<std::size_t>(g.y0)) * width + x + static_cast<std::size_t>(g.x0);
      if (task.exclusive) {
        std::size_t best = 0;  // the earlier class at a tie
        for (std::size_t k = 1; k < channels; ++k)
          if (line[k * bands.width() + x] > line[best * bands.width() + x]) best = k;
        if (best) layers[best - 1][at] = 1;
      } else {
        for (std::size_t k = 0; k < classes; ++k) layers[k][at] = line[k * bands.width() + x] >= limits[k];
      }
    }
  }
  for (std::size_t k = 0; k < classes; ++k) {
    const auto area = std::count(layers[k].begin(), layers[k].end(), 1);
    prediction.masks.push_back({task.name, task.classes[k], g.image_width, g.image_height, std::move(layers[k]), area,
                                static_cast<double>(area) / static_cast<double>(pixels)});
  }
}

void add_boxes(const Output& output, const std::vector<RawBox>& found, const Geometry& g, Prediction& prediction) {
  const double shift_x = g.pad_x - g.x0 * g.scale_x, shift_y = g.pad_y - g.y0 * g.scale_y;
  const auto x_of = [&](double x) { return std::min<double>(std::max<double>((x - shift_x) / g.scale_x, g.x0), g.x1); };
  const auto y_of = [&](double y) { return std::min<double>(std::max<double>((y - shift_y) / g.scale_y, g.y0), g.y1); };
  for (const RawBox& box : found) {
    const double x1 = x_of(box.x1), y1 = y_of(box.y1), x2 = x_of(box.x2), y2 = y_of(box.y2);
    if (x1 < x2 && y1 < y2)  // not one that lies in the padding
      prediction.boxes.push_back({output.task.name, output.task.classes[box.label], box.score, x1, y1, x2, y2,
                                  box.score >= output.threshold(box.label)});
  }
}

}  // namespace

std::vector<float> direction(const Tensor& raw) {
  std::vector<double> squares;
  for (float value : raw.data) squares.push_back(static_cast<double>(value) * value);
  const double length = std::sqrt(pairwise(squares.data(), squares.size()));
  if (!std::isfinite(length) || !(length > 0)) return {};
  std::vector<float> values;
  for (float value : raw.data) values.push_back(static_cast<float>(value / length));
  return values;
}

Prediction decode(const std::vector<Output>& outputs, const Raw& raw, const Geometry& geometry, const InputSpec& spec) {
  Prediction prediction;
  for (const Output& output : outputs) {
    const std::vector<const Tensor*> tensors = checked(output, raw);
    switch (output.task.kind) {
      case Kind::binary:
      case Kind::multilabel: add_findings(output, tempered(output, *tensors[0]), prediction); break;
      case Kind::multiclass:
      case Kind::ordinal: prediction.choices.push_back(choice(output, tempered(output, *tensors[0]))); break;
      case Kind::regression: add_measurements(output, *tensors[0], prediction); break;
      case Kind::segmentation: add_masks(output, *tensors[0], geometry, spec, prediction); break;
      case Kind::detection:
        add_boxes(
            output,
            output.proposals ? two_stage(tensors, output, spec) : one_stage(*tensors[0], *tensors[1], output, spec),
            geometry, prediction);
        break;
      case Kind::embedding: add_embedding(output, *tensors[0], prediction);
    }
  }
  return prediction;
}

}  // namespace foveola
