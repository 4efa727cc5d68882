-- 1 leaf, '' for the head or 'root', 2 branch or '', 3 max tokens, 4 max bytes, 5 max turns,
-- 6 how far to look for a summary beyond them; 0 is no bound
local reply = gone()
if reply then return reply end

local branch, leaf = ARGV[2], ARGV[1]
local active = redis.call('HGET', meta, 'branch')
if branch == '' then
  branch = active
elseif branch ~= active and redis.call('HEXISTS', heads, branch) == 0 then
  return {'nobranch', branch}
end
if leaf == '' then leaf = redis.call('HGET', heads, branch) or '' end
if leaf == 'root' then leaf = '' end
if leaf ~= '' and not node(leaf) then return {'noturn', leaf} end

local max_tokens, max_bytes, max_turns = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local turns, sums, tokens, bytes, stop = {}, {}, 0, 0, 'root'
local summaries = redis.call('EXISTS', sum) == 1

local function summary(id, depth)
  if not summaries then return end
  local text = redis.call('HGET', sum, id)
  if text then
    sums[#sums + 1], sums[#sums + 2], sums[#sums + 3] = id, tostring(depth), text
  end
end

local id = leaf
while id ~= '' do
  local x = node(id)
  if not x then stop = 'forgotten' break end
  tokens, bytes = tokens + x.tokens, bytes + x.bytes
  if (max_tokens > 0 and tokens > max_tokens) or (max_bytes > 0 and bytes > max_bytes)
    or (max_turns > 0 and #turns >= 3 * max_turns) then
    stop = 'budget' break
  end
  local body = redis.call('HGET', msgs, id)
  if not body then stop = 'dropped' break end
  turns[#turns + 1], turns[#turns + 2], turns[#turns + 3] = id, x.text, body
  summary(id, x.depth)
  id = x.parent
end
if summaries then
  for _ = 1, tonumber(ARGV[6]) do
    local x = id ~= '' and #sums == 0 and node(id)
    if not x then break end
    summary(id, x.depth)
    id = x.parent
  end
end
local x = leaf ~= '' and node(leaf)
return {'ok', redis.call('HGETALL', meta), redis.call('HGETALL', heads), redis.call('HKEYS', pend),
  branch, leaf, x and x.text or '', stop, turns, sums}
