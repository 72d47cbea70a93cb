// Who vouches for a bundle: OpenSSF model signing v1 with ECDSA on P-256, as runtime/signature.py checks it.
//
// Law: the key is the caller's and never taken from the signature; the statement is decoded only after its signature
// held; the members listed are exactly the members there.
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "foveola.hpp"
#include "strict_json.hpp"

namespace foveola {
namespace {

constexpr std::size_t MAX_KEY = 16 * 1024, MAX_SIGNATURE = 64 * 1024;
const char* const PAYLOAD_TYPE = "application/vnd.in-toto+json";
const char* const ANEW = "sign the bundle anew";
const char* const GET_ANEW = "get the bundle anew from its maker";

Error not_vouched(const std::string& place, const std::string& fault, const std::string& mend) {
  return Error(place, fault, mend, Code::not_vouched);
}

template <class T, void (*F)(T*)>
struct Freed {
  void operator()(T* one) const { F(one); }
};
void free_bio(BIO* bio) { BIO_free(bio); }
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
using Memory = std::unique_ptr<BIO, Freed<BIO, free_bio>>;
using Context = std::unique_ptr<EVP_MD_CTX, Freed<EVP_MD_CTX, EVP_MD_CTX_free>>;

std::string sha256_raw(const Bytes& data) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(data.data(), data.size(), digest, &size, EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("sha256 failed");
  return {reinterpret_cast<char*>(digest), size};
}

std::string hex(const std::string& raw) {
  static const char letters[] = "0123456789abcdef";
  std::string text;
  for (char c : raw) {
    text += letters[static_cast<unsigned char>(c) >> 4];
    text += letters[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

Key load_key(const Bytes& pem, const std::string& place) {
  const char* mend = "give the public key (.pub) that `foveola keygen` made";
  if (pem.find("PRIVATE KEY") != Bytes::npos)
    throw not_vouched(place, "this is a private key; a device holds only the public one", mend);
  const Memory source(BIO_new_mem_buf(pem.data(), static_cast<int>(std::min(pem.size(), MAX_KEY + 1))));
  Key key(PEM_read_bio_PUBKEY(source.get(), nullptr, nullptr, nullptr));
  if (!key) throw not_vouched(place, "not a public key in PEM", mend);
  char curve[32] = "";
  std::size_t size = 0;
  if (EVP_PKEY_get_base_id(key.get()) != EVP_PKEY_EC ||
      EVP_PKEY_get_group_name(key.get(), curve, sizeof curve, &size) != 1 || std::string(curve) != "prime256v1")
    throw not_vouched(place, "a key of the wrong kind; it has to be ECDSA on P-256", mend);
  return key;
}

// The sha256 of the key's PEM: it tells which key signed, not whether to trust it.
std::string key_hint(EVP_PKEY* key) {
  EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT, "uncompressed");
  const Memory target(BIO_new(BIO_s_mem()));
  char* data = nullptr;
  if (PEM_write_bio_PUBKEY(target.get(), key) != 1) throw std::runtime_error("a public key cannot be written");
  const long size = BIO_get_mem_data(target.get(), &data);
  return sha256_hex({data, static_cast<std::size_t>(size)});
}

// Strict: one text for one content.
Bytes base64(const std::string& text, const std::string& place) {
  Bytes data(text.size() / 4 * 3 + 3, '\0'), again(text.size() + 5, '\0');
  const int found = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(data.data()),
                                    reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  int size = found;
  if (text.size() > 1 && text[text.size() - 1] == '=') size -= text[text.size() - 2] == '=' ? 2 : 1;
  if (found > 0 && size > 0) {
    data.resize(static_cast<std::size_t>(size));
    const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(again.data()),
                                       reinterpret_cast<const unsigned char*>(data.data()), size);
    again.resize(static_cast<std::size_t>(length));
    if (again == text) return data;
  }
  throw not_vouched(place, "not valid base64", ANEW);
}

Json decoded(const Bytes& data, const Form& form, const std::string& place) {
  try {
    Json value = parse_json(data);
    form(value, "$");
    return value;
  } catch (const Fault& fault) {
    throw not_vouched(place, std::string("not a signature that is understood: ") + fault.what(), ANEW);
  }
}

Form sigstore_bundle() {
  const Form material =
      object({{"publicKey", object({{"hint", sha256_text(), true}}), true}, {"tlogEntries", list(text(), 0, 0)}});
  const Form signature = object({{"sig", text(), true}, {"keyid", word({""})}});
  const Form envelope = object({{"payload", text(), true},
                                {"payloadType", word({PAYLOAD_TYPE}), true},
                                {"signatures", list(signature, 1, 1), true}});
  return object({{"mediaType", word({"application/vnd.dev.sigstore.bundle.v0.3+json"}), true},
                 {"verificationMaterial", material, true},
                 {"dsseEnvelope", envelope, true}});
}

Form in_toto_statement() {
  const Form subject = object({{"name", text(), true}, {"digest", object({{"sha256", sha256_text(), true}}), true}});
  const Form serialization = object({{"method", word({"files"}), true},
                                     {"hash_type", word({"sha256"}), true},
                                     {"allow_symlinks", boolean(), true},
                                     {"ignore_paths", list(text())}});
  const Form resource =
      object({{"name", text(), true}, {"algorithm", word({"sha256"}), true}, {"digest", sha256_text(), true}});
  return object(
      {{"_type", word({"https://in-toto.io/Statement/v1"}), true},
       {"subject", list(subject, 1, 1), true},
       {"predicateType", word({"https://model_signing/signature/v1.0"}), true},
       {"predicate", object({{"serialization", serialization, true}, {"resources", list(resource), true}}), true}});
}

Bytes signed_payload(const Bytes& signature, EVP_PKEY* key, const std::string& place) {
  if (signature.size() > MAX_SIGNATURE)
    throw not_vouched(place, "longer than " + std::to_string(MAX_SIGNATURE) + " bytes", ANEW);
  const Json bundle = decoded(signature, sigstore_bundle(), place);
  if (bundle["verificationMaterial"]["publicKey"]["hint"] != key_hint(key))
    throw not_vouched(place, "signed with another key than the one given", "ask the signer for the public key");
  const Json& envelope = bundle["dsseEnvelope"];
  const Bytes payload = base64(envelope["payload"].get<std::string>(), place);
  const Bytes raw = base64(envelope["signatures"][0]["sig"].get<std::string>(), place);
  // Payload type and payload with their lengths: DSSE protocol v1.0, PAE.
  const std::string type = PAYLOAD_TYPE;
  const Bytes encoding =
      "DSSEv1 " + std::to_string(type.size()) + " " + type + " " + std::to_string(payload.size()) + " " + payload;
  const Context context(EVP_MD_CTX_new());
  if (!context || EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key) != 1 ||
      EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(raw.data()), raw.size(),
                       reinterpret_cast<const unsigned char*>(encoding.data()), encoding.size()) != 1)
    throw not_vouched(place, "the signature does not hold", GET_ANEW);
  return payload;
}

// Exactly the members signed have to be there, each once and unchanged; all faults at once.
void match(const Json& resources, const Digests& digests, const std::string& place) {
  Digests listed;
  for (const Json& one : resources) listed[one["name"].get<std::string>()] = one["digest"].get<std::string>();
  std::string faults;
  const auto add = [&](const std::string& fault) { faults += (faults.empty() ? "" : ", ") + fault; };
  for (const auto& [name, digest] : digests)
    if (!listed.count(name)) add(name + " is not signed");
  for (const auto& [name, digest] : listed)
    if (!digests.count(name)) add("'" + name + "' is signed but not there");
  for (const auto& [name, digest] : digests)
    if (listed.count(name) && listed[name] != digest) add(name + " was changed");
  if (listed.size() != resources.size()) add("a member is signed twice");
  if (!faults.empty()) throw not_vouched(place, faults, GET_ANEW);
}

}  // namespace

std::string sha256_hex(const Bytes& data) { return hex(sha256_raw(data)); }

Digests member_digests(const Members& members) {
  Digests digests;
  for (const auto& [name, data] : members)
    if (name != "model.sig") digests[name] = sha256_hex(data);
  return digests;
}

void verify_digests(const Digests& digests, const Bytes& signature, const Bytes& pem, const std::string& place) {
  const Key key = load_key(pem, place + ": key");
  const std::string where = place + ": model.sig";
  const Json statement = decoded(signed_payload(signature, key.get(), where), in_toto_statement(), where);
  const Json& resources = statement["predicate"]["resources"];
  Bytes together;
  for (const Json& one : resources) {
    const auto& digest = one["digest"].get_ref<const std::string&>();
    for (std::size_t i = 0; i < digest.size(); i += 2)
      together += static_cast<char>(std::stoi(digest.substr(i, 2), nullptr, 16));
  }
  if (statement["subject"][0]["digest"]["sha256"] != sha256_hex(together))
    throw not_vouched(where, "its own list of digests does not hold", ANEW);
  match(resources, digests, place);
}

}  // namespace foveola
