// A grid's answers as boxes, and greedy non-maximum suppression: runtime/boxes.py, suppression.py.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr std::size_t CANDIDATES = 1000;  // strongest cells that enter the suppression, so that its time is bounded
const double LOG_2 = 0.693147180559945309417232121458176568;

// log(1 + exp(x)), as numpy.logaddexp(0, x) computes it.
double softplus(double x) {
  if (x == 0) return LOG_2;
  return x < 0 ? std::log1p(std::exp(x)) : x + std::log1p(std::exp(-x));
}

std::vector<std::size_t> by_falling_score(const std::vector<RawBox>& boxes) {
  std::vector<std::size_t> order(boxes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return boxes[a].score > boxes[b].score; });
  return order;
}

}  // namespace

std::vector<std::size_t> nms(const std::vector<RawBox>& boxes, double iou, std::size_t most) {
  std::vector<std::size_t> waiting = by_falling_score(boxes), kept;
  const auto area = [](const RawBox& b) { return (b.x2 - b.x1) * (b.y2 - b.y1); };
  while (!waiting.empty() && kept.size() != most) {
    const RawBox& first = boxes[waiting[0]];
    kept.push_back(waiting[0]);
    std::vector<std::size_t> rest;
    for (std::size_t i = 1; i < waiting.size(); ++i) {
      const RawBox& other = boxes[waiting[i]];
      const double wide = std::min(first.x2, other.x2) - std::max(first.x1, other.x1);
      const double high = std::min(first.y2, other.y2) - std::max(first.y1, other.y1);
      const double shared = std::max(wide, 0.0) * std::max(high, 0.0);
      // Not divided: a box without area shares nothing and is kept.
      if (other.label != first.label || shared <= iou * (area(first) + area(other) - shared))
        rest.push_back(waiting[i]);
    }
    waiting = std::move(rest);
  }
  return kept;
}

// A cell (i, j) stands at ((j + 0.5) stride, (i + 0.5) stride); its box ends softplus(raw) * stride to each side
// (FCOS).
std::vector<RawBox> one_stage(const Tensor& sides, const Tensor& scores, const Output& output, const InputSpec& spec) {
  const auto h = static_cast<std::size_t>(scores.shape[2]), w = static_cast<std::size_t>(scores.shape[3]);
  const auto side = [&](std::size_t which, std::size_t cell) {
    return softplus(sides.data[which * h * w + cell]) * output.stride;
  };
  std::vector<RawBox> found;
  for (std::size_t at = 0; at < scores.data.size(); ++at) {
    const double score = sigmoid(static_cast<double>(scores.data[at]));
    if (score >= output.score_floor) found.push_back({0, 0, 0, 0, score, at});  // the label comes below
  }
  std::vector<std::size_t> best = by_falling_score(found);
  if (best.size() > CANDIDATES) best.resize(CANDIDATES);
  std::vector<RawBox> boxes, apart;
  for (std::size_t index : best) {
    const std::size_t label = found[index].label / (h * w), cell = found[index].label % (h * w);
    const double x = (static_cast<double>(cell % w) + 0.5) * output.stride,
                 y = (static_cast<double>(cell / w) + 0.5) * output.stride;
    const auto clip = [](double value, int most) { return std::min(std::max(value, 0.0), static_cast<double>(most)); };
    RawBox box{clip(x - side(0, cell), spec.width),
               clip(y - side(1, cell), spec.height),
               clip(x + side(2, cell), spec.width),
               clip(y + side(3, cell), spec.height),
               found[index].score,
               label};
    boxes.push_back(box);
    // Moved apart by their labels, as Python suppresses them: the sums round as they do there.
    const double shift = static_cast<double>(label * 2 * static_cast<std::size_t>(std::max(spec.height, spec.width)));
    apart.push_back({box.x1 + shift, box.y1 + shift, box.x2 + shift, box.y2 + shift, box.score, 0});
  }
  std::vector<RawBox> kept;
  for (std::size_t index : nms(apart, output.nms_iou, static_cast<std::size_t>(std::max(output.max_boxes, 0))))
    kept.push_back(boxes[index]);
  return kept;
}

}  // namespace foveola
