-- 1 now, 2 expected rev or ''; then name and value of each field
local reply = gone()
if reply then return reply end
local changed, prompt = false, false
for i = 3, #ARGV, 2 do
  if redis.call('HGET', meta, ARGV[i]) ~= ARGV[i + 1] then
    changed = true
    prompt = prompt or ARGV[i] == 'system'
  end
end
reply = changed and stale(ARGV[2])
if reply then return reply end
for i = 3, #ARGV, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
if prompt then redis.call('HINCRBY', meta, 'rev', 1) end
touched(ARGV[1])
expire()
return {'ok', redis.call('HGETALL', meta), redis.call('HGETALL', heads), redis.call('HKEYS', pend)}
