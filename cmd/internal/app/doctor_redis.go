package app

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// redis says whether conversations can be kept, and whether what is kept stays.
func (d *doctor) redis(ctx context.Context) {
	r := d.cfg.Redis
	t, err := openConversations(d.cfg, r, "hxp-doctor", nil)
	if err != nil {
		d.add(Problem, "Redis cannot be used", err.Error(), "set redis.url (REDIS_URL)")
		return
	}
	defer func() { _ = t.rdb.Close() }()
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Conversation.Timeout)
	defer cancel()
	switch err := t.rdb.Ping(ctx).Err(); {
	case err != nil && !r.configured():
		d.add(Fine, "no Redis is configured, and none answers at "+r.shown()+": jobs with a session are refused", "", "")
		return
	case err != nil:
		d.add(Problem, "Redis at "+r.shown()+" does not answer", explainRedis(r, err).Error(), "jobs with a session wait for it: start it, or correct redis.url (REDIS_URL)")
		return
	}
	d.add(Fine, "Redis at "+r.shown()+" answers", "", "")
	if cluster, ok := t.rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			d.redisNode(ctx, node, "Redis node "+node.Options().Addr)
			return nil
		})
		if err != nil {
			d.add(Warning, "not every node of the Redis cluster could be looked at", err.Error(), "look at the cluster's state (CLUSTER NODES)")
		}
		return
	}
	d.redisNode(ctx, t.rdb, "Redis")
}

// redisNode looks at what one server does when it is full, and when it ends. A server that does not tell is not blamed.
func (d *doctor) redisNode(ctx context.Context, node redis.Cmdable, name string) {
	info, err := node.Info(ctx, "memory", "persistence").Result()
	if err != nil {
		return
	}
	at := map[string]string{}
	for line := range strings.Lines(info) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			at[k] = v
		}
	}
	d.nodes.Lock()
	defer d.nodes.Unlock()
	policy := at["maxmemory_policy"]
	if strings.HasPrefix(policy, "allkeys-") {
		d.add(Problem, fmt.Sprintf("%s evicts with maxmemory-policy %s", name, policy),
			"when it is full it drops parts of sessions, which damages them", "CONFIG SET maxmemory-policy noeviction, and more memory")
	}
	used, _ := strconv.ParseFloat(at["used_memory"], 64)
	if most, _ := strconv.ParseFloat(at["maxmemory"], 64); most > 0 && used > nearly*most {
		d.add(Warning, fmt.Sprintf("%s uses %.0f %% of its memory", name, 100*used/most),
			fmt.Sprintf("%s of %s; when it is full, turns wait to be stored", Bytes(used), Bytes(most)), "raise its maxmemory, or lower conversation.ttl or conversation.max_bytes")
	}
	if at["aof_enabled"] != "0" {
		return
	}
	if save, err := node.ConfigGet(ctx, "save").Result(); err == nil && save["save"] == "" {
		d.add(Warning, name+" keeps its data in memory alone", "when it ends, every conversation is lost", "start it with appendonly yes")
	} else if err == nil {
		d.add(Warning, name+" stores its data from time to time (RDB) and writes no append-only file", "when it ends, the turns since the last snapshot are lost", "start it with appendonly yes")
	}
}
