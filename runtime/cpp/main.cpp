// The verbs of a device in C++: predict, verify and selftest, with the words, JSON and exit codes of foveola.runtime.
//
//   foveola-cpp predict chest.foveola image.png --key maker.pub --json
#include <algorithm>
#include <cstdio>
#include <iostream>

#include "foveola.hpp"

namespace {

using foveola::Code;
using foveola::Error;

const char* const USAGE = "foveola-cpp predict BUNDLE IMAGE... | verify BUNDLE | selftest BUNDLE  [--key PUB] [--json]";

struct Arguments {
  std::string verb, bundle;
  std::vector<std::string> images;
  std::optional<std::string> key;
  bool json = false;
};

Arguments parsed(int count, char** words) {
  Arguments a;
  std::vector<std::string> plain;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--json")
      a.json = true;
    else if (word == "--key" && i + 1 < count)
      a.key = words[++i];
    else if (word.rfind("--", 0) == 0)
      throw Error(word, "no such option", USAGE, Code::usage);
    else
      plain.push_back(word);
  }
  const bool known = !plain.empty() && (plain[0] == "predict" || plain[0] == "verify" || plain[0] == "selftest");
  if (!known || plain.size() < 2 || (plain[0] == "predict") != (plain.size() > 2))
    throw Error("foveola-cpp", "not a command", USAGE, Code::usage);
  a.verb = plain[0];
  a.bundle = plain[1];
  a.images.assign(plain.begin() + 2, plain.end());
  return a;
}

void print_words(const foveola::Prediction& p) {
  for (const auto& f : p.findings)
    std::printf("  %-16s %-28s %.3f %s %.3f  %s\n", f.task.c_str(), f.label.c_str(), f.probability,
                f.positive ? ">=" : "< ", f.threshold, f.positive ? "POSITIVE" : "negative");
  for (const auto& c : p.choices)
    std::printf("  %-16s %-28s %.3f\n", c.task.c_str(), c.classes[c.index].c_str(), c.probabilities[c.index]);
  for (const auto& m : p.measurements)
    std::printf("  %-16s %-28s %.2f%s%s\n", m.task.c_str(), m.name.c_str(), m.value, m.unit.empty() ? "" : " ",
                m.unit.c_str());
  for (const auto& m : p.masks)
    std::printf("  %-16s %-28s %lld px  %.1f %%\n", m.task.c_str(), m.label.c_str(), static_cast<long long>(m.area_px),
                100 * m.fraction);
  for (const auto& b : p.boxes)
    if (b.positive)
      std::printf("  %-16s %-28s %.3f  %.0f,%.0f - %.0f,%.0f\n", b.task.c_str(), b.label.c_str(), b.score, b.x1, b.y1,
                  b.x2, b.y2);
  for (const auto& e : p.embeddings) {
    std::printf("  %-16s %-28s %zu numbers: ", e.task.c_str(), "embedding", e.values.size());
    for (std::size_t i = 0; i < std::min<std::size_t>(e.values.size(), 4); ++i)
      std::printf("%s%.3f", i ? ", " : "", e.values[i]);
    std::printf("%s\n", e.values.size() > 4 ? ", ..." : "");
  }
}

// All images are answered or refused on their own; one that is refused makes the exit code 1.
Code predict(const Arguments& a) {
  foveola::Predictor predictor(foveola::open_bundle(a.bundle, a.key));
  std::string answers;
  Code code = Code::done;
  for (const std::string& image : a.images) {
    const std::string begin = "{\"file\": " + foveola::python_string(image);
    try {
      const foveola::Prediction prediction =
          predictor.predict(foveola::read_file(image, image, foveola::MAX_FILE_BYTES), image);
      answers +=
          (answers.empty() ? "" : ", ") + begin + ", \"prediction\": " + foveola::prediction_json(prediction) + "}";
      if (!a.json) {
        std::printf("%s\n", image.c_str());
        print_words(prediction);
      }
    } catch (const Error& error) {
      std::cerr << error.what() << "\n";
      answers += (answers.empty() ? "" : ", ") + begin + ", \"error\": " + foveola::python_string(error.what()) + "}";
      code = Code::refused;
    }
  }
  const std::string name = foveola::python_string(predictor.bundle().manifest.name);
  if (a.json) std::cout << "{\"bundle\": " << name << ", \"engine\": \"openvino\", \"images\": [" << answers << "]}\n";
  return code;
}

Code verify(const Arguments& a) {
  const foveola::Bundle bundle = foveola::open_bundle(a.bundle, a.key);
  const foveola::Manifest& m = bundle.manifest;
  if (a.json)
    std::cout << "{\"ok\": true, \"name\": " << foveola::python_string(m.name)
              << ", \"version\": " << foveola::python_string(m.version) << ", \"digest\": \"" << bundle.digest
              << "\"}\n";
  else
    std::cout << m.name << " " << m.version << " is signed by the key's holder\n  digest " << bundle.digest << "\n";
  return Code::done;
}

Code selftest(const Arguments& a) {
  foveola::Predictor predictor(foveola::open_bundle(a.bundle, a.key));
  const foveola::SelfTest test = foveola::self_test(predictor);
  if (a.json)
    std::cout << test.json << "\n";
  else
    for (const std::string& line : test.lines) std::cout << line << "\n";
  return test.ok ? Code::done : Code::refused;
}

}  // namespace

int main(int count, char** words) {
  try {
    const Arguments a = parsed(count, words);
    return static_cast<int>(a.verb == "predict" ? predict(a) : a.verb == "verify" ? verify(a) : selftest(a));
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code);
  } catch (const std::bad_alloc&) {
    std::cerr << "memory: there is not enough; give the process more\n";
    return static_cast<int>(Code::refused);
  }
}
