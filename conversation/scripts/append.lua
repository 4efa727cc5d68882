-- 1 turn, 2 parent or '', 3 expected rev or '', 4 branch or '', 5 status, 6 messages, 7 bytes,
-- 8 tokens, 9 body, 10 now, 11 max messages, 12 max bytes, 13 tokens in, 14 tokens out,
-- 15 latency in ms, 16 1 if the window left something out
local reply = gone()
if reply then return reply end

local id, parent, status = ARGV[1], ARGV[2], ARGV[5]
local n, bytes, tokens = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local finished = status == 'f'

local m = redis.call('HMGET', meta, 'branch', 'rev', 'user', 'ttl')
local active, user, ttl = m[1], m[3], m[4]
local branch = ARGV[4] ~= '' and ARGV[4] or active
local head = redis.call('HGET', heads, branch) or ''

local old = node(id)
if old and (old.status == 'f' or not finished) then
  redis.call('HDEL', pend, id)
  return {'duplicate', tostring(old.seq), m[2], head, user, ttl}
end
reply = stale(ARGV[3]) or (parent ~= '' and unfit(parent))
if reply then return reply end

local depth, messages, total = 1, n, tokens
if parent ~= '' then
  local p = node(parent)
  depth, messages, total = p.depth + 1, p.messages + n, p.total + tokens
end

-- An attempt that was kept unfinished gives way to the one that finished.
if old then
  redis.call('LREM', log, 1, id)
  redis.call('HINCRBY', meta, 'relinked', 1)
  redis.call('HINCRBY', meta, 's_aborted', -1)
  if redis.call('HDEL', msgs, id) == 1 then
    redis.call('HINCRBY', meta, 'messages', -old.n)
    redis.call('HINCRBY', meta, 'bytes', -old.bytes)
    redis.call('HINCRBY', meta, 'tokens', -old.tokens)
  else
    redis.call('HINCRBY', meta, 'bare', -1)
  end
end

local seq = redis.call('HINCRBY', meta, 'seq', n) - n + 1
redis.call('HSET', idx, id, string.format('%s|%d|%d|%d|%d|%s|%d|%d|%d',
  parent, seq, n, bytes, tokens, status, depth, messages, total))
redis.call('HSET', msgs, id, ARGV[9])
redis.call('RPUSH', log, id)
redis.call('HDEL', pend, id)

local stored = redis.call('HINCRBY', meta, 'messages', n)
local size = redis.call('HINCRBY', meta, 'bytes', bytes)
redis.call('HINCRBY', meta, 'tokens', tokens)
redis.call('HINCRBY', meta, 's_in', ARGV[13])
redis.call('HINCRBY', meta, 's_out', ARGV[14])
redis.call('HINCRBY', meta, 's_truncated', ARGV[16])

local rev, moved = m[2], '0'
if finished then
  rev = tostring(redis.call('HINCRBY', meta, 'rev', 1))
  redis.call('HINCRBY', meta, 's_turns', 1)
  redis.call('HINCRBY', meta, 's_latency', ARGV[15])
  if tonumber(ARGV[15]) > tonumber(redis.call('HGET', meta, 's_latency_max')) then
    redis.call('HSET', meta, 's_latency_max', ARGV[15])
  end
  if head == parent and (head ~= '' or branch == active) then
    redis.call('HSET', heads, branch, id)
    head, moved = id, '1'
  else
    redis.call('HINCRBY', meta, 's_branches', 1)
  end
else
  redis.call('HINCRBY', meta, 's_aborted', 1)
end

-- The bounds. Entries of log before `bare` have no body; every entry after has one. Bodies go
-- oldest first, a tenth more than needed, then the oldest entries that have none.
local max_messages, max_bytes = tonumber(ARGV[11]), tonumber(ARGV[12])
local dropped, forgotten = 0, 0
local length = redis.call('LLEN', log)
local bare = tonumber(redis.call('HGET', meta, 'bare'))
if stored > max_messages or size > max_bytes then
  local goal_messages, goal_bytes = math.floor(max_messages * 0.9), math.floor(max_bytes * 0.9)
  local lost, last = 0, length - 2 -- the new turn stays
  while (stored > goal_messages or size > goal_bytes) and bare <= last do
    for _, turn in ipairs(redis.call('LRANGE', log, bare, math.min(bare + 63, last))) do
      if stored <= goal_messages and size <= goal_bytes then break end
      local x = node(turn)
      redis.call('HDEL', msgs, turn)
      stored, size, lost, dropped = stored - x.n, size - x.bytes, lost + x.tokens, dropped + x.n
      bare = bare + 1
    end
  end
  redis.call('HINCRBY', meta, 'tokens', -lost)
  redis.call('HSET', meta, 'messages', stored, 'bytes', size, 'bare', bare)
end
if length > max_messages and bare > 0 then
  local goal, out = math.floor(max_messages * 0.9), {}
  while length > goal and bare > 0 do
    local turn = redis.call('LPOP', log)
    redis.call('HDEL', idx, turn)
    redis.call('HDEL', sum, turn)
    out[turn] = true
    length, bare, forgotten = length - 1, bare - 1, forgotten + 1
  end
  local named = redis.call('HGETALL', heads)
  for i = 1, #named, 2 do
    if out[named[i + 1]] then redis.call('HDEL', heads, named[i]) end
  end
  redis.call('HSET', meta, 'bare', bare)
  redis.call('HINCRBY', meta, 'forgotten', forgotten)
end

touched(ARGV[10])
expire()
return {'ok', tostring(seq), rev, head, user, ttl, moved, tostring(dropped), tostring(forgotten)}
