// A prediction as JSON, letter for letter as `python -m foveola.runtime predict --json` prints it.
#include "foveola.hpp"

namespace foveola {
namespace {

using Pairs = std::vector<std::pair<const char*, std::string>>;

std::string object_of(const Pairs& pairs) {
  std::string text = "{";
  for (std::size_t i = 0; i < pairs.size(); ++i)
    text += (i ? ", \"" : "\"") + std::string(pairs[i].first) + "\": " + pairs[i].second;
  return text + "}";
}

template <class Items, class Write>
std::string list_of(const Items& items, Write write) {
  std::string text = "[";
  for (const auto& item : items) text += (text.size() > 1 ? ", " : "") + write(item);
  return text + "]";
}

const char* boolean_of(bool value) { return value ? "true" : "false"; }

// COCO's run lengths: column by column, zeros first.
std::string runs_of(const Mask& mask) {
  std::string text =
      "{\"size\": [" + std::to_string(mask.height) + ", " + std::to_string(mask.width) + "], \"counts\": [";
  const auto width = static_cast<std::size_t>(mask.width), height = static_cast<std::size_t>(mask.height);
  std::uint8_t now = 0;
  std::size_t run = 0;
  bool first = true;
  const auto add = [&] {
    text += (first ? "" : ", ") + std::to_string(run);
    first = false;
  };
  for (std::size_t x = 0; x < width; ++x)
    for (std::size_t y = 0; y < height; ++y) {
      const std::uint8_t pixel = mask.pixels[y * width + x];
      if (pixel != now) {
        add();
        now = pixel;
        run = 0;
      }
      ++run;
    }
  add();
  return text + "]}";
}

}  // namespace

std::string prediction_json(const Prediction& p) {
  const auto findings = list_of(p.findings, [](const Finding& f) {
    return object_of({{"task", python_string(f.task)},
                      {"label", python_string(f.label)},
                      {"probability", python_repr(f.probability)},
                      {"threshold", python_repr(f.threshold)},
                      {"positive", boolean_of(f.positive)}});
  });
  const auto choices = list_of(p.choices, [](const Choice& c) {
    return object_of({{"task", python_string(c.task)},
                      {"label", python_string(c.classes[c.index])},
                      {"index", std::to_string(c.index)},
                      {"probabilities", list_of(c.probabilities, python_repr)},
                      {"classes", list_of(c.classes, python_string)}});
  });
  const auto measurements = list_of(p.measurements, [](const Measurement& m) {
    return object_of({{"task", python_string(m.task)},
                      {"name", python_string(m.name)},
                      {"value", python_repr(m.value)},
                      {"unit", python_string(m.unit)}});
  });
  const auto boxes = list_of(p.boxes, [](const Box& b) {
    return object_of({{"task", python_string(b.task)},
                      {"label", python_string(b.label)},
                      {"score", python_repr(b.score)},
                      {"x1", python_repr(b.x1)},
                      {"y1", python_repr(b.y1)},
                      {"x2", python_repr(b.x2)},
                      {"y2", python_repr(b.y2)},
                      {"positive", boolean_of(b.positive)}});
  });
  const auto masks = list_of(p.masks, [](const Mask& m) {
    return object_of({{"task", python_string(m.task)},
                      {"label", python_string(m.label)},
                      {"area_px", std::to_string(m.area_px)},
                      {"fraction", python_repr(m.fraction)},
                      {"runs", runs_of(m)}});
  });
  Pairs parts = {{"findings", findings},
                 {"choices", choices},
                 {"measurements", measurements},
                 {"boxes", boxes},
                 {"masks", masks}};
  if (!p.embeddings.empty())
    parts.emplace_back(
        "embeddings", list_of(p.embeddings, [](const Embedding& e) {
          return object_of({{"task", python_string(e.task)}, {"values", list_of(e.values, python_repr)}});
        }));
  return object_of(parts);
}

}  // namespace foveola
