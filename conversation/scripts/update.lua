-- 1 now, 2 expected rev or '', 3 1 if the change moves the revision; then name and value of each field
local reply = gone() or stale(ARGV[2])
if reply then return reply end
for i = 4, #ARGV, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
if ARGV[3] == '1' then redis.call('HINCRBY', meta, 'rev', 1) end
touched(ARGV[1])
expire()
return {'ok', redis.call('HGETALL', meta), redis.call('HGETALL', heads), redis.call('HKEYS', pend)}
