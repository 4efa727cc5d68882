-- 1 branch, 2 turn or '' to leave it, 3 1 to make the branch the active one, 4 expected rev or '',
-- 5 now, 6 max branches, 7 1 to remove the branch
local reply = gone()
if reply then return reply end
local branch, turn = ARGV[1], ARGV[2]
local m = redis.call('HMGET', meta, 'branch', 'rev')
local at = redis.call('HGET', heads, branch)

local same = (turn == '' or at == turn) and (ARGV[3] ~= '1' or m[1] == branch) and ARGV[7] ~= '1'
if same and (at or branch == m[1]) then return {'ok', m[2]} end
reply = stale(ARGV[4])
if reply then return reply end

if ARGV[7] == '1' then
  if branch == m[1] then return {'active', branch} end
  if not at then return {'nobranch', branch} end
  redis.call('HDEL', heads, branch)
else
  if turn == '' and not at then return {'nobranch', branch} end
  reply = turn ~= '' and unfit(turn)
  if reply then return reply end
  local count = redis.call('HLEN', heads)
  if not at and count >= tonumber(ARGV[6]) then
    return {'toolarge', 'branches', tostring(count + 1), ARGV[6]}
  end
  if turn ~= '' then redis.call('HSET', heads, branch, turn) end
  if ARGV[3] == '1' then redis.call('HSET', meta, 'branch', branch) end
end
local rev = redis.call('HINCRBY', meta, 'rev', 1)
touched(ARGV[5])
expire()
return {'ok', tostring(rev)}
