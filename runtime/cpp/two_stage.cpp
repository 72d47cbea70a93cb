// A two-stage detector's dense tensors as boxes, as runtime/two_stage.py: rows are suppressed level by level, the best
// get their classes and offsets, and what overlaps within a label goes.
#include <algorithm>
#include <cmath>

#include "foveola.hpp"
#include "pairwise.hpp"

namespace foveola {
namespace {

const double LARGEST_GROWTH = std::log(1000.0 / 16);

RawBox clipped(RawBox box, const InputSpec& spec) {
  const auto clip = [](double value, int most) { return std::min(std::max(value, 0.0), static_cast<double>(most)); };
  return {clip(box.x1, spec.width),
          clip(box.y1, spec.height),
          clip(box.x2, spec.width),
          clip(box.y2, spec.height),
          box.score,
          box.label};
}

bool large(const RawBox& box, double least) { return box.x2 - box.x1 >= least && box.y2 - box.y1 >= least; }

// torchvision's BoxCoder.decode: a proposal moved by offsets of x, y, log width and log height.
RawBox moved(const RawBox& from, const float* delta, const std::array<double, 4>& weights) {
  const double dx = delta[0] / weights[0], dy = delta[1] / weights[1];
  const double dw = std::min(delta[2] / weights[2], LARGEST_GROWTH),
               dh = std::min(delta[3] / weights[3], LARGEST_GROWTH);
  const double width = from.x2 - from.x1, height = from.y2 - from.y1;
  const double x = from.x1 + 0.5 * width + dx * width, y = from.y1 + 0.5 * height + dy * height;
  const double half_width = 0.5 * width * exp64(dw), half_height = 0.5 * height * exp64(dh);
  return {x - half_width, y - half_height, x + half_width, y + half_height, 0, 0};
}

// Proposals that reach the second stage; their `label` is the row they stand in.
std::vector<RawBox> strongest(const Tensor& corners, const Tensor& objectness, const Proposals& how,
                              const InputSpec& spec) {
  std::vector<RawBox> candidates;
  std::vector<std::size_t> rows;
  std::size_t row = 0;
  for (std::size_t level = 0; level < how.levels.size(); ++level)
    for (int i = 0; i < how.levels[level]; ++i, ++row) {
      const float* c = &corners.data[row * 4];
      // torchvision sorts probabilities of 32 bits, of which many are exactly 1 where their logits still differ.
      const float chance = 1 / (1 + exp32(-objectness.data[row]));
      const RawBox box = clipped({c[0], c[1], c[2], c[3], chance, level}, spec);
      if (!large(box, how.min_side)) continue;
      candidates.push_back(box);
      rows.push_back(row);
    }
  std::vector<RawBox> best;
  for (std::size_t index : nms(candidates, how.nms_iou, static_cast<std::size_t>(how.kept))) {
    best.push_back(candidates[index]);
    best.back().label = rows[index];
  }
  return best;
}

}  // namespace

std::vector<RawBox> two_stage(const std::vector<const Tensor*>& tensors, const Output& output, const InputSpec& spec) {
  const Proposals& how = *output.proposals;
  const std::size_t classes = output.task.classes.size();
  std::vector<RawBox> found;
  std::vector<double> power(classes + 1);
  for (const RawBox& proposal : strongest(*tensors[0], *tensors[1], how, spec)) {
    const float* logits = &tensors[2]->data[proposal.label * (classes + 1)];
    const float* deltas = &tensors[3]->data[proposal.label * classes * 4];
    const double most = *std::max_element(logits, logits + classes + 1);
    for (std::size_t k = 0; k <= classes; ++k) power[k] = exp64(logits[k] - most);
    const double sum = pairwise(power.data(), power.size());
    for (std::size_t k = 0; k < classes; ++k) {
      RawBox box = clipped(moved(proposal, deltas + 4 * k, how.weights), spec);
      box.score = power[k + 1] / sum;
      box.label = k;
      if (box.score > output.score_floor && large(box, how.box_min_side)) found.push_back(box);
    }
  }
  std::vector<RawBox> kept;
  for (std::size_t index : nms(found, output.nms_iou, static_cast<std::size_t>(output.max_boxes)))
    kept.push_back(found[index]);
  return kept;
}

}  // namespace foveola
