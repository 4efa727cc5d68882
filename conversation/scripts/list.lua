-- KEYS 1 the user's list. ARGV 1 session, 2 updated, 3 time to live in ms, 4 max sessions
local list, id = KEYS[1], ARGV[1]
local score = redis.call('ZSCORE', list, id)
local count = redis.call('ZCARD', list)
if not score and count >= tonumber(ARGV[4]) then
  return {'toolarge', 'sessions of the user', tostring(count + 1), ARGV[4]}
end
if not score or tonumber(score) < tonumber(ARGV[2]) then redis.call('ZADD', list, ARGV[2], id) end
if redis.call('PTTL', list) < tonumber(ARGV[3]) then redis.call('PEXPIRE', list, ARGV[3]) end
return {'ok'}
