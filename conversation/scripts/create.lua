-- 1 nonce, 2 fields of meta, 3 turns, 4 heads, 5 summaries; then name and value of each field; id,
-- entry and body of each turn, oldest first; name and turn of each head; turn and text of each summary
local m = redis.call('HMGET', meta, 'ttl', 'deleted', 'nonce')
if m[2] then return {'deleted'} end
if m[1] then
  -- A client that lost the first answer asks again.
  if m[3] == ARGV[1] then return {'ok'} end
  return {'exists'}
end
local at = 6
local function pairs_to(key, count)
  for _ = 1, count do
    redis.call('HSET', key, ARGV[at], ARGV[at + 1])
    at = at + 2
  end
end
redis.call('HSET', meta, 'nonce', ARGV[1])
pairs_to(meta, tonumber(ARGV[2]))
for _ = 1, tonumber(ARGV[3]) do
  redis.call('HSET', idx, ARGV[at], ARGV[at + 1])
  if ARGV[at + 2] ~= '' then redis.call('HSET', msgs, ARGV[at], ARGV[at + 2]) end
  redis.call('RPUSH', log, ARGV[at])
  at = at + 3
end
pairs_to(heads, tonumber(ARGV[4]))
pairs_to(sum, tonumber(ARGV[5]))
expire()
return {'ok'}
