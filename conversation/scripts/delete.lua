-- 1 now, 2 how long the tombstone stands, in ms
local reply = gone()
if reply then return reply end
local user = redis.call('HGET', meta, 'user')
redis.call('DEL', unpack(KEYS))
redis.call('HSET', meta, 'deleted', ARGV[1])
redis.call('PEXPIRE', meta, ARGV[2])
return {'ok', user}
