-- ARGV: milliseconds without any change, ttl in milliseconds, milliseconds after which what the broker had is lost, how many
-- outcomes may be missing.
-- Gives, of a cancelled batch that was never sealed and has not changed for so long, the first item of which nothing may
-- come any more and how many items it has from now on; the same again where that was done before, and of a sealed one once
-- what the broker had of it is lost; twice 0 for any other, nothing for an unknown one.
if call('EXISTS', batch) == 0 then
  return false
end

local function recorded()
  local sum = 0
  for _, name in ipairs({'ok', 'failed', 'dead', 'cancelled', 'expired'}) do
    sum = sum + number(name)
  end
  return sum
end

local function quiet_for()
  return tonumber(now()) - tonumber(call('HGET', batch, 'touched') or call('HGET', batch, 'created'))
end

local closed = call('HGET', batch, 'closed')
local total = call('HGET', batch, 'total')
if not closed and total then
  local is_lost = call('HEXISTS', batch, 'stopped') == 1 and quiet_for() >= tonumber(ARGV[3])
  if not is_lost or call('HEXISTS', batch, 'completed') == 1 or tonumber(total) - recorded() > tonumber(ARGV[4]) then
    return {0, 0}
  end
  go_on()
  closed = total
  call('HSET', batch, 'closed', closed, 'accepted', 0)
elseif not closed then
  if call('HEXISTS', batch, 'stopped') == 0 or quiet_for() < tonumber(ARGV[1]) then
    return {0, 0}
  end
  local upto = math.max(number('accepted'), recorded_end())
  -- Somebody has sent outcomes of items that are far from all others: they are not to be filled up to there.
  if upto - math.max(number('accepted'), recorded()) > tonumber(ARGV[4]) then
    return {0, 0}
  end
  -- Not before: one that is left as it is goes when nobody goes on with it.
  go_on()
  closed = whole(upto)
  call('HSET', batch, 'total', closed, 'closed', closed)
  complete(ARGV[2])
  changed()
end
-- Nor where somebody says that the broker had so many more: these are waited for.
if quiet_for() >= tonumber(ARGV[3]) and tonumber(closed) - recorded() <= tonumber(ARGV[4]) then
  call('HSET', batch, 'accepted', 0)
end
return {number('accepted'), tonumber(closed)}
