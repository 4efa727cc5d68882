-- 1 first place, counted from the first turn ever, 2 max turns, 3 max bytes, 4 1 for bodies
local reply = gone()
if reply then return reply end
local m = redis.call('HMGET', meta, 'forgotten', 'relinked')
local from = math.max(tonumber(ARGV[1]), tonumber(m[1]))
local at, bytes, turns = from - tonumber(m[1]), 0, {}
for _, id in ipairs(redis.call('LRANGE', log, at, at + tonumber(ARGV[2]) - 1)) do
  local x = node(id)
  bytes = bytes + x.bytes
  if ARGV[4] == '1' and bytes > tonumber(ARGV[3]) and #turns > 0 then break end
  from = from + 1
  turns[#turns + 1], turns[#turns + 2] = id, x.text
  turns[#turns + 1] = ARGV[4] == '1' and redis.call('HGET', msgs, id) or ''
end
return {'ok', tostring(from), m[2], turns, redis.call('HGETALL', meta), redis.call('HGETALL', heads),
  redis.call('HKEYS', pend), redis.call('HGETALL', sum)}
