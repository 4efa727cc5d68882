-- 1 turn, 2 text, 3 max summaries
local reply = gone() or unfit(ARGV[1])
if reply then return reply end
redis.call('HSET', sum, ARGV[1], ARGV[2])
-- The oldest go first: a newer one covers what they do.
local ids = redis.call('HKEYS', sum)
local count = #ids
while count > tonumber(ARGV[3]) do
  local oldest, seq
  for _, id in ipairs(ids) do
    local x = id ~= '' and id ~= ARGV[1] and node(id)
    if x and (not seq or x.seq < seq) then oldest, seq = id, x.seq end
  end
  redis.call('HDEL', sum, oldest)
  for i, id in ipairs(ids) do
    if id == oldest then ids[i] = '' end
  end
  count = count - 1
end
expire()
return {'ok'}
