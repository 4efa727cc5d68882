-- Every script begins with this. All keys of a session share one hash tag, so they share one slot.
local meta, idx, msgs, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local pend, sum, heads = KEYS[5], KEYS[6], KEYS[7]

-- gone is the reply where there is no session to work on, or nil.
local function gone()
  local m = redis.call('HMGET', meta, 'ttl', 'deleted')
  if m[2] then return {'deleted'} end
  if not m[1] then return {'notfound'} end
end

-- node reads a turn's entry in idx, or nil. The last three are sums over the path from the root.
local function node(id)
  local v = redis.call('HGET', idx, id)
  if not v then return nil end
  local parent, seq, n, bytes, tokens, status, depth, messages, total =
    string.match(v, '^([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|(%a)|(%d+)|(%d+)|(%d+)$')
  return {
    text = v, parent = parent, status = status, seq = tonumber(seq),
    n = tonumber(n), bytes = tonumber(bytes), tokens = tonumber(tokens),
    depth = tonumber(depth), messages = tonumber(messages), total = tonumber(total),
  }
end

-- expire gives every key of the session the same time to live.
local function expire()
  local ttl = redis.call('HGET', meta, 'ttl')
  for i = 1, 7 do redis.call('PEXPIRE', KEYS[i], ttl) end
end

-- touched notes the time of a change; clocks of different writers may run apart.
local function touched(now)
  local before = tonumber(redis.call('HGET', meta, 'updated'))
  if tonumber(now) > before then redis.call('HSET', meta, 'updated', now) end
end

-- stale is the reply if the session has moved on from the revision that was expected, or nil.
local function stale(expected)
  if expected == '' then return nil end
  local rev = redis.call('HGET', meta, 'rev')
  if rev ~= expected then return {'conflict', rev, '', expected} end
end

-- unfit is the reply if id is not a finished turn, or nil.
local function unfit(id)
  local x = node(id)
  if not x then return {'noturn', id} end
  if x.status ~= 'f' then return {'unfinished', id} end
end
