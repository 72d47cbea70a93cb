// Opens hostile files and says what became of each: "ok DIGEST", or the exit code and the refusal. Built with
// sanitizers.
//
//   foveola-attack bundle KEY < names-of-files        foveola-attack image < names-of-files
#include <iostream>

#include "foveola.hpp"

namespace {

std::string look(const std::string& mode, const std::string& key, const std::string& path) {
  if (mode == "bundle") {
    const foveola::Bundle bundle = foveola::open_bundle(path, key);
    if (bundle.members.count("golden.npz") && bundle.manifest.openvino) foveola::golden_cases(bundle, "openvino");
    return bundle.digest;
  }
  const foveola::Picture picture =
      foveola::decode_picture(foveola::read_file(path, path, foveola::MAX_FILE_BYTES), path);
  foveola::InputSpec spec;
  spec.height = 24;
  spec.width = 40;
  spec.channels = picture.channels;
  spec.fov = spec.percentile = true;
  foveola::prepare(picture, spec);
  return foveola::sha256_hex(foveola::pixel_digest(picture));
}

}  // namespace

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  for (std::string path; std::getline(std::cin, path);) {
    try {
      const std::string found = look(mode, count > 2 ? words[2] : "", path);
      std::cout << "ok " << found << "\n";
    } catch (const foveola::Error& error) {
      std::cout << static_cast<int>(error.code) << " " << error.what() << "\n";
    }
  }
}
