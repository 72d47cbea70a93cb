// The golden images from their bytes to the decision, as runtime/selftest.py judges them.
//
// Laws: raw outputs are held against a tolerance by the engine's arithmetic, decisions that flip count where their
// probability moved clearly, NaN and infinity fail. Besides, `identical` tells whether every raw output is the same bit
// for bit as the one that Python got where the bundle was made. Latency is Python's to judge. The tensors of two-stage
// detectors are rows in an order of their own: they are compared where they are identical, else by their boxes alone.
// Of embeddings the directions are compared, scaled to a root mean square of 1 as runtime/box_map.py has it.
#include <cmath>
#include <cstring>

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr double CLEAR_MOVE = 0.05;

struct Sums {
  double largest = 0, difference = 0, expected = 0, count = 0;
};

double tolerance_of(const std::string& arithmetic) {
  return arithmetic == "float32" ? 0.001 : arithmetic == "float16" ? 0.02 : 0.1;
}

std::string text_of(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3g", value);
  return buffer;
}

std::string number_of(double value) { return std::isfinite(value) ? python_repr(value) : "null"; }

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape == b.shape && a.data.size() == b.data.size() &&
         std::memcmp(a.data.data(), b.data.data(), a.data.size() * sizeof(float)) == 0;
}

void add(const Tensor& then, const Tensor& now, Sums& sums) {
  for (std::size_t i = 0; i < then.data.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(now.data[i]) - then.data[i]);
    sums.largest = difference > sums.largest || std::isnan(difference) ? difference : sums.largest;
    sums.difference += difference * difference;
    sums.expected += static_cast<double>(then.data[i]) * then.data[i];
  }
  sums.count += static_cast<double>(then.data.size());
}

Tensor scaled(const Tensor& raw) {
  Tensor found{raw.shape, direction(raw)};
  found.data.resize(raw.data.size(), std::nanf(""));  // no direction: the comparison fails
  const float size = static_cast<float>(std::sqrt(static_cast<double>(raw.data.size())));
  for (float& value : found.data) value *= size;
  return found;
}

// How far the probability moved, for each decision that is another one now.
void add_moves(const Prediction& then, const Prediction& now, int& flips, int& clear) {
  const auto count = [&](double move) {
    ++flips;
    clear += move > CLEAR_MOVE;
  };
  for (std::size_t i = 0; i < then.findings.size(); ++i)
    if (then.findings[i].positive != now.findings[i].positive)
      count(std::fabs(then.findings[i].probability - now.findings[i].probability));
  for (std::size_t i = 0; i < then.choices.size(); ++i) {
    if (then.choices[i].index == now.choices[i].index) continue;
    double move = 0;
    for (std::size_t k = 0; k < then.choices[i].probabilities.size(); ++k)
      move = std::max(move, std::fabs(then.choices[i].probabilities[k] - now.choices[i].probabilities[k]));
    count(move);
  }
}

class Test {
 public:
  explicit Test(Predictor& predictor) : predictor_(predictor), manifest_(predictor.bundle().manifest) {}

  void look(const Case& one) {
    const Picture picture = decode_picture(one.image, one.place);
    decoder_changed_ += pixel_digest(picture) != one.decoded;
    const Prepared prepared = prepare(picture, manifest_.input);
    const Raw raw = predictor_.run(prepared.x_CHW);
    for (const Output& output : manifest_.outputs)
      for (const std::string& name : output.tensors) {
        const Tensor &then = one.expected.at(name), &now = raw.at(name);
        const bool same = same_bits(then, now);
        identical_ = identical_ && same;
        if (then.shape != now.shape) throw Error(one.place, "output '" + name + "' has another shape");
        if (output.task.kind == Kind::embedding)
          add(scaled(then), scaled(now), sums_[name]);
        else if (same || !output.proposals)
          add(then, now, sums_[name]);
      }
    const auto decoded = [&](const Raw& which) {
      return decode(manifest_.outputs, which, prepared.geometry, manifest_.input);
    };
    add_moves(decoded(one.expected), decoded(raw), flips_, clear_);
    ++images_;
  }

  SelfTest report() {
    SelfTest test;
    const double allowed = tolerance_of(manifest_.openvino->arithmetic);
    std::string drifts;
    for (const auto& [name, sums] : sums_) {
      const double relative = std::sqrt(sums.difference / std::max(sums.expected, sums.count));
      drifts += (drifts.empty() ? "" : ", ") + std::string("{\"tensor\": ") + python_string(name) +
                ", \"largest\": " + number_of(sums.largest) + ", \"relative\": " + number_of(relative) +
                ", \"tolerance\": " + python_repr(allowed) + "}";
      if (!(relative <= allowed))
        faults_.push_back(name + " drifted by " + text_of(relative) + ", allowed " + text_of(allowed));
    }
    if (clear_) faults_.push_back(std::to_string(clear_) + " decision(s) flipped");
    std::string faults;
    for (const std::string& fault : faults_) faults += (faults.empty() ? "" : ", ") + python_string(fault);
    test.ok = faults_.empty();
    test.json = std::string("{\"ok\": ") + (test.ok ? "true" : "false") +
                ", \"engine\": \"openvino\", \"images\": " + std::to_string(images_) +
                ", \"identical\": " + (identical_ ? "true" : "false") + ", \"drifts\": [" + drifts +
                "], \"flips\": " + std::to_string(flips_) +
                ", \"decoder_changed\": " + std::to_string(decoder_changed_) + ", \"faults\": [" + faults + "]}";
    test.lines = {std::string(test.ok ? "ok" : "FAILED") + ": " + std::to_string(images_) +
                  " golden image(s) on openvino, " +
                  (identical_ ? "every raw output the same bit for bit" : "raw outputs within their tolerance")};
    if (!test.ok) test.lines = faults_;
    return test;
  }

  void fault(const std::string& text) { faults_.push_back(text); }

 private:
  Predictor& predictor_;
  const Manifest& manifest_;
  std::map<std::string, Sums> sums_;
  std::vector<std::string> faults_;
  int images_ = 0, flips_ = 0, clear_ = 0, decoder_changed_ = 0;
  bool identical_ = true;
};

}  // namespace

SelfTest self_test(Predictor& predictor) {
  Test test(predictor);
  for (const Case& one : golden_cases(predictor.bundle(), "openvino")) {
    try {
      test.look(one);
    } catch (const Error& error) {
      test.fault(error.what());
    }
  }
  return test.report();
}

}  // namespace foveola
