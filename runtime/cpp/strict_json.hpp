// JSON from outside, held against a form: known fields, the right types, no name twice, no depth without end.
#ifndef FOVEOLA_STRICT_JSON_HPP
#define FOVEOLA_STRICT_JSON_HPP

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace foveola {

using Json = nlohmann::json;

// Says what is wrong with a value at a path; an exception of this kind never leaves the file that decodes.
class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Form = std::function<void(const Json& value, const std::string& path)>;

struct Field {
  const char* name;
  Form form;
  bool required = false;
};

// Raises Fault: not JSON, not UTF-8, NaN, beyond a float, a name twice in one object, deeper than 64.
Json parse_json(const std::string& text);

Form object(std::vector<Field> fields, const char* ignored = "");
Form list(Form item, std::size_t least = 0, std::size_t most = SIZE_MAX);
Form dictionary(Form item, std::size_t most = SIZE_MAX);
Form or_null(Form form);
Form text();
Form word(std::vector<std::string> allowed);
Form sha256_text();  // in hexadecimal, small letters
Form boolean();
Form whole(std::int64_t least, std::int64_t most = INT64_MAX);
Form real(double low, double high, bool open_low = false);
Form any_object();  // whose content this reader does not use

}  // namespace foveola
#endif
