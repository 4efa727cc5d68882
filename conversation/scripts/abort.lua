-- 1 turn
local reply = gone()
if reply then return reply end
local there = redis.call('HDEL', pend, ARGV[1])
if there == 1 then redis.call('HINCRBY', meta, 's_aborted', 1) end
return {'ok', tostring(there)}
