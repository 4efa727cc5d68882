package schemas_test

import (
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/schemas"
)

func TestSubjectNames(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		schemas.JobsStream("phi3"):                              "HXP_JOBS_phi3",
		schemas.JobsOfModel("phi3"):                             "hxp.v1.jobs.phi3.*.*",
		schemas.JobsOfClass("phi3", schemas.Batch):              "hxp.v1.jobs.phi3.batch.*",
		schemas.JobSubject("phi3", schemas.Interactive, "acme"): "hxp.v1.jobs.phi3.interactive.acme",
		schemas.ClassConsumer(schemas.Standard):                 "standard",
		schemas.EventSubject("acme", "web", "j1"):               "hxp.v1.events.acme.web.j1",
		schemas.EventsOfClient("acme", "web"):                   "hxp.v1.events.acme.web.*",
		schemas.EventsOfJob("acme", "j1"):                       "hxp.v1.events.acme.*.j1",
		schemas.ResultSubject("acme", "j1"):                     "hxp.v1.results.acme.j1",
		schemas.DeadSubject("phi3", "acme"):                     "hxp.v1.dead.phi3.acme",
		schemas.CancelSubject("acme", "j1"):                     "hxp.v1.cancel.acme.j1",
		schemas.CancelKey("acme", "j1"):                         "acme.j1",
		schemas.DrainSubject("w1"):                              "hxp.v1.workers.w1.drain",
		schemas.AllEvents + " " + schemas.AllResults:            "hxp.v1.events.> hxp.v1.results.>",
		schemas.AllDead + " " + schemas.AllCancels:              "hxp.v1.dead.> hxp.v1.cancel.>",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCheckToken(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "Z", "0", "-", "_", "gpu-1_PHI3", strings.Repeat("x", 64)} {
		if err := schemas.CheckToken(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"":                      "is empty; want 1 to 64",
		strings.Repeat("x", 65): "is 65 bytes long; want at most 64",
		"a.b":                   "holds '.'",
		"*":                     "holds '*'",
		">":                     "holds '>'",
		"a b":                   "holds ' '",
		"a\tb":                  `holds '\t'`,
		"a/b":                   "holds '/'",
		"$JS":                   "holds '$'",
		"é":                     `want letters, digits, '-' or '_'`,
		"a\x00":                 `holds '\x00'`,
	} {
		if err := schemas.CheckToken(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", bad, err, want)
		}
	}
}

func TestParseJobSubject(t *testing.T) {
	t.Parallel()
	for _, class := range schemas.Classes() {
		model, c, tenant, err := schemas.ParseJobSubject(schemas.JobSubject("phi3", class, "acme"))
		if model != "phi3" || c != class || tenant != "acme" || err != nil {
			t.Errorf("%s: %q %q %q, %v", class, model, c, tenant, err)
		}
	}
	for _, bad := range []string{
		"", "jobs.phi3.batch.acme", "hxp.v1.jobs.phi3.batch", "hxp.v1.jobs.phi3.batch.acme.x", "hxp.v1.jobs.phi3.urgent.acme", "hxp.v1.jobs..batch.acme",
		"hxp.v1.jobs.phi3.batch.", "hxp.v1.jobs.*.batch.acme", "hxp.v1.jobs.phi3.batch.>", "hxp.v2.jobs.phi3.batch.acme", "hxp.v1.jobs.phi 3.batch.acme",
	} {
		if _, _, _, err := schemas.ParseJobSubject(bad); err == nil || !strings.Contains(err.Error(), `"`+bad+`"`) {
			t.Errorf("%q: %v, want an error that names it", bad, err)
		}
	}
}

func TestReplySubject(t *testing.T) {
	t.Parallel()
	const none = "hxp.v1.events.acme.none.j1"
	for replyTo, want := range map[string][2]string{
		"":                          {none, ""},
		"hxp.v1.events.acme.web":    {"hxp.v1.events.acme.web.j1", ""},
		"hxp.v1.events.acme.web.j1": {"hxp.v1.events.acme.web.j1", ""},
		"_INBOX.abc":                {none, "_INBOX.abc"},
		"_INBOX.abc.def":            {none, "_INBOX.abc.def"},
		"_INBOX_acme.abc":           {none, "_INBOX_acme.abc"},
	} {
		event, inbox, err := schemas.ReplySubject(replyTo, "acme", "j1")
		if event != want[0] || inbox != want[1] || err != nil {
			t.Errorf("%q: %q %q, %v; want %q", replyTo, event, inbox, err, want)
		}
	}
	for _, refused := range []string{
		// Another tenant, another job, and what is no client.
		"hxp.v1.events.other.web", "hxp.v1.events.other.web.j1", "hxp.v1.events.acmeother.web", "hxp.v1.events.acme.web.j2",
		"hxp.v1.events.acme.web.j1.x", "hxp.v1.events.acme.", "hxp.v1.events.acme", "hxp.v1.events.acme..j1", "hxp.v1.events.acme.web.",
		// Wildcards and spaces.
		"hxp.v1.events.acme.*", "hxp.v1.events.acme.>", "hxp.v1.events.acme.*.j1", "hxp.v1.events.acme.web.*", "hxp.v1.events.acme.we b", " hxp.v1.events.acme.web",
		"hxp.v1.events.acme.web\r\nPUB x 0", "*", ">", "_INBOX.*", "_INBOX.>", "_INBOX.a b", "_INBOX.a\r\n", "_INBOX", "_INBOX.", "_INBOX..a", "_INBOX.a.",
		// Where a worker may publish and its producer may not.
		"hxp.v1.results.acme.j1", "hxp.v1.jobs.phi3.batch.acme", "hxp.v1.cancel.acme.j1", "hxp.v1.dead.phi3.acme", "$JS.API.STREAM.DELETE.HXP_EVENTS",
		"$KV.hxp_workers.w1", "$SYS.REQ.SERVER.PING", "$SRV.PING", "inbox.a", "_inbox.a", "X_INBOX.a", "_INBOX$.a", "_INBOX." + strings.Repeat("a.", 150) + "a",
	} {
		event, inbox, err := schemas.ReplySubject(refused, "acme", "j1")
		e := schemas.AsError(err)
		if e == nil || event != "" || inbox != "" {
			t.Errorf("%.80q: %q %q, want it refused", refused, event, inbox)
			continue
		}
		if e.Code != schemas.CodeInvalidRequest || e.Param != "reply_to" || len(e.Message) > 500 {
			t.Errorf("%.80q: %+v, want an invalid_request of reply_to", refused, e)
		}
	}
}
