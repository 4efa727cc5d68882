package queue

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// comparison collects the differences of one object. Only settings that hxp sets are looked at;
// what an operator added is left alone.
type comparison struct {
	object string
	diffs  []Difference
}

// compare notes a difference and brings have to want.
func compare[T comparable](c *comparison, field string, have *T, want T, text func(T) string) {
	if *have == want {
		return
	}
	c.diffs = append(c.diffs, Difference{Object: c.object, Field: field, Have: text(*have), Want: text(want)})
	*have = want
}

// compareStream returns how a stream differs, its configuration with the differences removed, and
// which fields the server will not change in place, with the reason.
func compareStream(have, want jetstream.StreamConfig) (diffs []Difference, merged jetstream.StreamConfig, stuck map[string]string) {
	c := &comparison{object: want.Name}
	stuck = map[string]string{"storage": "it cannot be changed in place: delete the stream and set it up again"}
	storage := have.Storage
	compare(c, "storage", &have.Storage, want.Storage, jetstream.StorageType.String)
	have.Storage = storage
	retention := have.Retention
	compare(c, "retention", &have.Retention, want.Retention, jetstream.RetentionPolicy.String)
	if retention == jetstream.WorkQueuePolicy {
		stuck["retention"] = stuck["storage"]
		have.Retention = retention
	}
	if !slices.Equal(have.Subjects, want.Subjects) {
		c.diffs = append(c.diffs, Difference{c.object, "subjects", strings.Join(have.Subjects, " "), strings.Join(want.Subjects, " ")})
		have.Subjects = want.Subjects
	}
	compare(c, "replicas", &have.Replicas, want.Replicas, strconv.Itoa)
	compare(c, "discard", &have.Discard, want.Discard, jetstream.DiscardPolicy.String)
	compare(c, "discard_new_per_subject", &have.DiscardNewPerSubject, want.DiscardNewPerSubject, strconv.FormatBool)
	compare(c, "no_ack", &have.NoAck, want.NoAck, strconv.FormatBool)
	compare(c, "allow_direct", &have.AllowDirect, want.AllowDirect, strconv.FormatBool)
	for _, f := range []struct {
		name string
		have *int64
		want int64
		text func(int64) string
	}{
		{"max_msgs", &have.MaxMsgs, want.MaxMsgs, countText},
		{"max_bytes", &have.MaxBytes, want.MaxBytes, bytesText},
		{"max_msgs_per_subject", &have.MaxMsgsPerSubject, want.MaxMsgsPerSubject, countText},
	} {
		if f.want != 0 {
			compare(c, f.name, f.have, f.want, f.text)
		}
	}
	if want.MaxMsgSize != 0 {
		compare(c, "max_msg_size", &have.MaxMsgSize, want.MaxMsgSize, func(n int32) string { return bytesText(int64(n)) })
	}
	for _, f := range []struct {
		name       string
		have, want *time.Duration
	}{
		{"max_age", &have.MaxAge, &want.MaxAge},
		{"duplicate_window", &have.Duplicates, &want.Duplicates},
		{"subject_delete_marker_ttl", &have.SubjectDeleteMarkerTTL, &want.SubjectDeleteMarkerTTL},
	} {
		if *f.want != 0 {
			compare(c, f.name, f.have, *f.want, durationText)
		}
	}
	if want.AllowMsgTTL {
		compare(c, "allow_msg_ttl", &have.AllowMsgTTL, true, strconv.FormatBool)
	}
	// A window longer than the age is refused, and a shorter age may be one of the changes.
	if have.MaxAge > 0 {
		have.Duplicates = min(have.Duplicates, have.MaxAge)
	}
	return c.diffs, have, stuck
}

func compareConsumer(object string, have, want jetstream.ConsumerConfig) (diffs []Difference, merged jetstream.ConsumerConfig, stuck map[string]string) {
	c := &comparison{object: object}
	stuck = map[string]string{
		"ack_policy":  "it cannot be changed in place: delete the consumer and set it up again",
		"max_waiting": "it cannot be changed in place: delete the consumer and set it up again",
	}
	old := have
	compare(c, "ack_policy", &have.AckPolicy, want.AckPolicy, jetstream.AckPolicy.String)
	compare(c, "max_waiting", &have.MaxWaiting, want.MaxWaiting, strconv.Itoa)
	have.AckPolicy, have.MaxWaiting = old.AckPolicy, old.MaxWaiting
	compare(c, "filter_subject", &have.FilterSubject, want.FilterSubject, strconv.Quote)
	compare(c, "ack_wait", &have.AckWait, want.AckWait, durationText)
	compare(c, "max_deliver", &have.MaxDeliver, want.MaxDeliver, func(n int) string { return countText(int64(n)) })
	compare(c, "max_ack_pending", &have.MaxAckPending, want.MaxAckPending, func(n int) string { return countText(int64(n)) })
	if len(have.BackOff) > 0 {
		c.diffs = append(c.diffs, Difference{object, "backoff", fmt.Sprint(have.BackOff), "none"})
		have.BackOff = nil
	}
	return c.diffs, have, stuck
}

func countText(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

func durationText(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}

// bytesText writes a size in the largest unit that does not round it.
func bytesText(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; n%1024 == 0 && i < len(units)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, units[i])
}
