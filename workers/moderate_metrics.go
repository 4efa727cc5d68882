package workers

import "github.com/prometheus/client_golang/prometheus"

// Text is held for microseconds by rules, and for as long as a request takes by an endpoint.
var moderationBuckets = []float64{.00001, .0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// moderationMetrics are the series of what moderation does to the jobs of a model.
type moderationMetrics struct {
	total   map[Stage]map[action]prometheus.Counter
	seconds map[Stage]prometheus.Observer
}

func newModerationMetrics(v *vectors, model string) *moderationMetrics {
	total := v.counter("hxp_moderation_total", "Stages of jobs that moderation has checked, by what came of it.", "model", "stage", "action")
	seconds := v.histogram("hxp_moderation_seconds", "Time for which moderation held text: the input of a job, or a piece of a reply.", moderationBuckets, "stage")
	m := &moderationMetrics{total: map[Stage]map[action]prometheus.Counter{}, seconds: map[Stage]prometheus.Observer{}}
	for _, stage := range []Stage{StageInput, StageOutput} {
		m.seconds[stage] = seconds.WithLabelValues(string(stage))
		m.total[stage] = map[action]prometheus.Counter{}
		for _, a := range actions {
			m.total[stage][a] = total.WithLabelValues(model, string(stage), string(a))
		}
	}
	return m
}
