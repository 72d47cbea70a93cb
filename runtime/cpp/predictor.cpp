// From an image file's bytes to a prediction, as runtime/predict.py.
//
// Law: a bundle whose manifest says which images are fit is refused: an answer that nobody has judged fit is no answer,
// and the measures of runtime/fitness are Python's alone.
#include "foveola.hpp"

namespace foveola {
namespace {

const OpenVinoOptions& options_of(const Manifest& manifest) {
  if (manifest.judges_fitness)
    throw Error(manifest.name, "its manifest asks which images are fit, and this reader judges none",
                "use foveola.runtime, or a bundle without `fitness`");
  if (!manifest.openvino)
    throw Error(manifest.name, "no engine of this bundle is known to this reader", "export it for openvino",
                Code::part_missing);
  return *manifest.openvino;
}

}  // namespace

Predictor::Predictor(Bundle bundle)
    : bundle_(std::move(bundle)), session_(options_of(bundle_.manifest), bundle_.members, bundle_.manifest) {
  const InputSpec& spec = bundle_.manifest.input;
  // The first run of an engine allocates and packs weights; the first patient should not wait for it.
  session_.run(std::vector<float>(static_cast<std::size_t>(spec.channels) * static_cast<std::size_t>(spec.height) *
                                  static_cast<std::size_t>(spec.width)));
}

Prediction Predictor::predict(const Bytes& image, const std::string& place) {
  const Manifest& manifest = bundle_.manifest;
  const Prepared prepared = prepare(decode_picture(image, place), manifest.input);
  return decode(manifest.outputs, session_.run(prepared.x_CHW), prepared.geometry, manifest.input);
}

}  // namespace foveola
