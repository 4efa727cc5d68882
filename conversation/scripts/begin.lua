-- 1 turn, 2 parent, '' for the head or 'root', 3 branch or '', 4 expected rev or '',
-- 5 1 to serialize, 6 now, 7 lease in ms, 8 max pending
local reply = gone()
if reply then return reply end

local id, parent = ARGV[1], ARGV[2]
local m = redis.call('HMGET', meta, 'branch', 'rev')
local branch, rev = ARGV[3], m[2]
if branch == '' then
  branch = m[1]
elseif branch ~= m[1] and redis.call('HEXISTS', heads, branch) == 0 then
  return {'nobranch', branch}
end

local have = node(id)
if have and have.status == 'f' then return {'ok', rev, have.parent, branch, '1', {}} end
if parent == '' then parent = redis.call('HGET', heads, branch) or '' end
if parent == 'root' then parent = '' end
reply = stale(ARGV[4]) or (parent ~= '' and unfit(parent))
if reply then return reply end

local now, others, other, beside = tonumber(ARGV[6]), 0, '', {}
local flight = redis.call('HGETALL', pend)
for i = 1, #flight, 2 do
  if flight[i] ~= id then
    beside[#beside + 1] = flight[i]
    if tonumber(string.match(flight[i + 1], '^%d+')) <= now then
      redis.call('HDEL', pend, flight[i])
      redis.call('HINCRBY', meta, 's_aborted', 1)
    else
      others, other = others + 1, flight[i]
    end
  end
end
if ARGV[5] == '1' and others > 0 then return {'conflict', rev, other, '-1'} end
if others >= tonumber(ARGV[8]) then return {'toolarge', 'pending turns', tostring(others + 1), ARGV[8]} end

redis.call('HSET', pend, id, string.format('%d|%s', now + tonumber(ARGV[7]), parent))
expire()
return {'ok', rev, parent, branch, '0', beside}
