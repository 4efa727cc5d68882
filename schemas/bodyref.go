package schemas

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
)

// digestPrefix names the hash of a [BodyRef], as NATS object stores write it.
const digestPrefix = "SHA-256="

// BodyRef is what a job says of a body that lies in [BodiesBucket], under [BodyName].
type BodyRef struct {
	// Size is the length of the body in bytes.
	Size int `json:"size"`
	// Digest is the body's SHA-256 as the object store writes it: "SHA-256=" and URL-safe base64.
	Digest string `json:"digest"`
}

// RefTo returns the reference to a body.
func RefTo(body []byte) BodyRef {
	sum := sha256.Sum256(body)
	return BodyRef{Size: len(body), Digest: digestPrefix + base64.URLEncoding.EncodeToString(sum[:])}
}

func (r *BodyRef) validate(f *faults) {
	if r.Size < 1 {
		f.add("body_ref.size", "is %d; want the length of the body, at least 1", r.Size)
	}
	text, ok := strings.CutPrefix(r.Digest, digestPrefix)
	if sum, err := base64.URLEncoding.DecodeString(text); !ok || err != nil || len(sum) != sha256.Size {
		f.add("body_ref.digest", "is %.64q; want %q and the URL-safe base64 of %d bytes", r.Digest, digestPrefix, sha256.Size)
	}
}

// referred reports whether the body is elsewhere.
func (j *Job) referred() bool { return j.BodyRef != nil && len(j.Body) == 0 }

// Resolve puts a job's body, which BodyRef referred to, into its place, fills what follows from it,
// and validates the whole.
func (j *Job) Resolve(body json.RawMessage) error {
	j.Body, j.BodyRef = body, nil
	j.SetDefaults()
	return j.Validate()
}
